//! The page of a preference study in a real browser: Chromium, by its DevTools protocol. Where none is
//! found (`CHROMIUM=PATH`, or `chromium` and the like on the path), these tests pass with a note.
#![cfg(unix)]

mod asked;
mod devtools;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use asked::{options, study, study_of};
use cdbench::study::{Answer, Collected, Desk, Key, Options, Side, serve};
use devtools::{Browser, Tab};

fn small() -> Options {
    let minimum_ms = 60;
    Options { pairs: Some(1), per_rater: 3, booklets: 2, practice: 1, minimum_ms, ..options() }
}

/// The address of a file.
fn file(path: &Path) -> String {
    format!("file://{}", path.display())
}

fn steps(key: &Key, booklet: usize) -> usize {
    2 * key.booklets[booklet].len()
}

/// Answers the question on the screen with a key, and waits for the next.
fn press(tab: &mut Tab, key: &str) {
    tab.until("document.querySelector('.choice[aria-disabled=\"false\"]') !== null");
    let before = tab.text("document.getElementById('place').textContent");
    tab.key(key);
    tab.until(&format!("document.getElementById('place').textContent !== {before:?}"));
}

fn start(tab: &mut Tab, name: &str) {
    tab.until("document.getElementById('start') !== null");
    tab.run(&format!("document.getElementById('name').value = {name:?}"));
    tab.run("document.getElementById('start').click()");
}

fn kept(tab: &mut Tab) -> Vec<Answer> {
    let json =
        tab.text("JSON.stringify(JSON.parse(localStorage.getItem(localStorage.key(0))).answers)");
    serde_json::from_str(&json).unwrap()
}

#[test]
fn a_rater_goes_through_the_page_from_disk() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("study");
    let mut results = asked::results();
    let evil = "a </script><img src=x onerror=\"document.title='broken'\"> & 'dog'";
    results.images.iter_mut().for_each(|i| i.text_prompt = evil.into());
    let key = study_of(&results, &place, &small()).key;
    let address = file(&place.join("page/index.html")) + "?booklet=2";
    let mut tab = browser.open(&address);
    tab.screenshot("welcome");
    start(&mut tab, "Zoë, \"one\"");
    // held down, and with another key: nothing happens
    tab.until("document.querySelector('.choice[aria-disabled=\"false\"]') !== null");
    tab.run("document.dispatchEvent(new KeyboardEvent('keydown', { key: '1', repeat: true }))");
    tab.key("3");
    assert!(kept(&mut tab).is_empty());
    press(&mut tab, "ArrowLeft");
    tab.screenshot("image-question");
    press(&mut tab, "2");
    // practice is over: the prompt is text, whatever it has
    tab.until("document.querySelector('.practice') === null");
    tab.screenshot("text-question");
    for _ in 0..20 {
        if tab.text("document.getElementById('prompt')?.textContent ?? ''") == evil {
            break;
        }
        press(&mut tab, "1");
    }
    assert_eq!(tab.text("document.getElementById('prompt').textContent"), evil);
    assert_eq!(tab.text("document.title"), "Which image?");
    // closed and opened again, it goes on where it was
    let before = kept(&mut tab).len();
    assert!(before >= 2);
    tab.close();
    let mut tab = browser.open(&address);
    tab.until("document.querySelector('.choice') !== null");
    assert_eq!(kept(&mut tab).len(), before);
    for _ in before..steps(&key, 1) {
        tab.until("document.querySelector('.choice[aria-disabled=\"false\"]') !== null");
        let at = kept(&mut tab).len();
        tab.run("document.querySelectorAll('.choice')[1].click()");
        tab.until(&format!(
            "JSON.parse(localStorage.getItem(localStorage.key(0))).answers.length > {at}"
        ));
    }
    tab.until("document.getElementById('csv') !== null");
    tab.screenshot("end");
    let given = kept(&mut tab);
    assert_eq!(
        (given.len(), given[0].choice, given[1].choice),
        (steps(&key, 1), Side::Left, Side::Right)
    );
    assert!(given.iter().all(|a| a.ms >= 60 && a.booklet == Some(1)));

    // what is downloaded is what was answered
    let downloads = dir.path().join("downloads");
    std::fs::create_dir(&downloads).unwrap();
    for button in ["csv", "json"] {
        let click = format!("document.getElementById('{button}').click()");
        let path = tab.download(&downloads, &click);
        assert!(path.extension().is_some_and(|e| e == button), "{}", path.display());
        let mut collected = Collected::new(&key);
        collected.read(&path).unwrap();
        assert_eq!(collected.votes.len(), given.len());
        let rater = &collected.raters[0];
        assert_eq!((rater.edited, rater.name.as_str()), (0, "Zoë, \"one\""));
    }
    // the next person is somebody else
    tab.run("document.getElementById('next').click()");
    tab.until("document.getElementById('start') !== null");
    assert_eq!(tab.text("String(localStorage.length)"), "0");
    tab.check(&file(&place.join("page/")));
}

#[test]
fn a_served_page_sends_its_answers_and_outlives_its_server() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let key = study(dir.path(), &small()).key;
    let address = |port: u16| format!("127.0.0.1:{port}");
    static NEVER: AtomicBool = AtomicBool::new(false);
    let listener = TcpListener::bind(address(0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let desk = Arc::new(Desk::open(dir.path(), dir.path()).unwrap());
    std::thread::spawn(move || serve(&desk, &listener, &NEVER));
    let origin = format!("http://{}/", address(port));
    let mut tab = browser.open(&origin);
    start(&mut tab, "Kim");
    let all = steps(&key, 0);
    for i in 0..all - 1 {
        press(&mut tab, if i % 2 == 0 { "1" } else { "2" });
    }
    // the server is away for the last answer: it is kept here, and said so
    tab.offline(true);
    tab.until("document.querySelector('.choice[aria-disabled=\"false\"]') !== null");
    tab.key("1");
    tab.until("document.getElementById('status').textContent.includes('not saved yet')");
    tab.screenshot("away");
    assert_eq!(tab.text("String(document.getElementById('next').disabled)"), "true");
    tab.offline(false);
    tab.until("document.getElementById('ending').textContent.includes('are saved')");
    let mut collected = Collected::new(&key);
    collected.read(&dir.path().join("answers.jsonl")).unwrap();
    assert_eq!((collected.votes.len(), collected.raters[0].edited), (all, 0));
    tab.forgive("ERR_INTERNET_DISCONNECTED");
    tab.check(&origin);
}

#[test]
fn the_page_fits_a_phone_and_the_dark() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    study(dir.path(), &small());
    let mut tab = browser.open(&file(&dir.path().join("page/index.html")));
    tab.device(390, 800, true);
    start(&mut tab, "");
    for name in ["phone-text", "phone-image"] {
        tab.until("document.querySelector('.choice[aria-disabled=\"false\"]') !== null");
        assert_eq!(tab.text("String(document.documentElement.scrollWidth)"), "390", "{name}");
        let bottom =
            tab.text("String(document.querySelector('.choice').getBoundingClientRect().bottom)");
        assert!(bottom.parse::<f64>().unwrap() <= 800.0, "both images are in sight: {bottom}");
        tab.screenshot(name);
        press(&mut tab, "1");
    }
    // every image has words, every button a name
    let nameless = "[...document.images].filter(i => !i.alt).length + \
                    [...document.querySelectorAll('button')].filter(b => !b.textContent.trim()).length";
    assert_eq!(tab.text(&format!("String({nameless})")), "0");
    tab.check(&file(dir.path()));
}

//! The report as a page: what it has, that no text becomes more than text, and how it behaves in a browser.

#[allow(dead_code)] // not every test uses all of it
mod fixture;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use cdbench::report::{Again, ImageRow, Origin, Pictures, Results, render, render_tables};
use fixture::results;
use image::{Rgb, RgbImage};
use serde_json::Value;

/// Text that would be an element, an end of the script or a line's end, if it were taken for more than text.
const NASTY: &str = "</script><img id=evil src=x onerror='evil=1'> \"quoted\" & it's \u{2028} \\";

/// Pictures with files, below a folder.
struct Files(PathBuf);

impl Files {
    /// Writes a picture for each row but the last of all.
    fn of(results: &Results, root: &Path) -> Files {
        for (n, row) in results.images.iter().enumerate().skip(1) {
            let path = root.join(&row.file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let shade = (n % 200) as u8;
            RgbImage::from_pixel(16, 12, Rgb([shade, 90, 255 - shade])).save(path).unwrap();
        }
        Files(root.to_owned())
    }
}

impl Pictures for Files {
    fn sample(&self, row: &ImageRow) -> Option<RgbImage> {
        Some(image::open(self.file(row)?).ok()?.into_rgb8())
    }

    fn targets(&self, concept: &str) -> Vec<RgbImage> {
        (0..4)
            .map(|i| RgbImage::from_pixel(64, 64, Rgb([concept.len() as u8, 120, i * 60])))
            .collect()
    }

    fn file(&self, row: &ImageRow) -> Option<PathBuf> {
        Some(self.0.join(&row.file))
    }

    fn origin(&self, row: &ImageRow) -> Option<Origin> {
        (row.prompt != 1).then(|| Origin {
            prompt: format!("{} <new1>", row.text_prompt),
            checkpoint: "0123456789abcdef".into(),
            command: Again::Sample("cdbench sample --backbone mini".into()),
        })
    }
}

/// Results with nasty texts wherever people write some.
fn nasty() -> Results {
    let mut results = results(1, 0.0);
    results.title = format!("Title {NASTY}");
    for cell in results.cells.iter_mut().filter(|c| c.label == "DreamBooth") {
        cell.label = format!("DreamBooth {NASTY}");
    }
    for image in results.images.iter_mut().filter(|i| i.prompt == 2) {
        image.text_prompt += NASTY;
    }
    results.failed.push(("nothing".into(), NASTY.into()));
    results
}

/// What `page/data.js` says.
fn data(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("page/data.js")).unwrap();
    assert!(!text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']), "a text could end the script");
    let json =
        text.split_once("window.cdbench = ").unwrap().1.trim_end().strip_suffix(';').unwrap();
    serde_json::from_str(json).unwrap()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect()
}

fn list(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn all_of_the_report_is_on_the_page() {
    let (dir, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let results = nasty();
    render(&results, &Files::of(&results, store.path()), dir.path()).unwrap();
    let data = data(dir.path());
    assert_eq!(data["title"], results.title.as_str());
    let tables: Vec<&Value> =
        data["tables"].as_array().unwrap().iter().map(|t| &t["name"]).collect();
    assert!(tables.starts_with(&[&"table".into(), &"differences".into()]), "{tables:?}");
    let first = &data["tables"][0]["sections"][0]["rows"][0];
    let markdown = std::fs::read_to_string(dir.path().join("table.md")).unwrap();
    let entry = &first["entries"][0];
    let shown = entry["text"].as_str().unwrap();
    assert!(markdown.contains(shown) && entry["ends"][0].is_string(), "{first}");

    // an image a row, each with its sheet, its whole image and its values; one is lost
    let samples = &data["samples"];
    let images = &samples["images"];
    assert_eq!(images["cell"].as_array().unwrap().len(), results.images.len());
    let fulls = texts(&images["full"]);
    assert_eq!(fulls.iter().filter(|name| name.is_empty()).count(), 1);
    let named: BTreeSet<String> =
        fulls.iter().filter(|n| !n.is_empty()).map(|n| (*n).to_owned()).collect();
    assert_eq!(list(&dir.path().join("page/images")), named);
    for sheet in texts(&samples["sheets"]) {
        assert!(dir.path().join(sheet).is_file(), "{sheet}");
    }
    for index in 0..results.images.len() {
        let cell = &data["cells"][images["cell"][index].as_u64().unwrap() as usize];
        let seed = &samples["seeds"][images["seed"][index].as_u64().unwrap() as usize];
        let prompt = &samples["prompts"][images["prompt"][index].as_u64().unwrap() as usize];
        let row = results.images.iter().find(|row| {
            cell["id"] == row.cell.as_str()
                && seed.as_str().unwrap().parse() == Ok(row.seed)
                && prompt[1] == row.prompt
        });
        let row = row.unwrap_or_else(|| panic!("{cell} {seed} {prompt}"));
        assert_eq!(prompt[2], row.text_prompt.as_str());
        let value = images["values"][fixture::TEXT][index].as_f64().unwrap();
        assert!((value - row.value(fixture::TEXT).unwrap()).abs() < 1e-6);
        if let Some(full) = fulls.get(index).filter(|name| !name.is_empty()) {
            let copy = std::fs::read(dir.path().join("page/images").join(full)).unwrap();
            assert!(copy == std::fs::read(store.path().join(&row.file)).unwrap(), "{full}");
        }
    }

    // a method has the colour that it has in the picture
    let svg = std::fs::read_to_string(dir.path().join("scatter.svg")).unwrap().to_lowercase();
    let rows = data["groups"][0]["rows"].as_array().unwrap();
    let colors: BTreeSet<&str> = rows.iter().map(|r| r["color"].as_str().unwrap()).collect();
    assert!(colors.len() > 4 && colors.iter().all(|color| svg.contains(color)), "{colors:?}");
}

#[test]
fn a_page_may_use_its_own_files_alone() {
    let dir = tempfile::tempdir().unwrap();
    render_tables(&nasty(), dir.path()).unwrap();
    let page = std::fs::read_to_string(dir.path().join("index.html")).unwrap();
    let policy = page.split("Content-Security-Policy\" content=\"").nth(1).unwrap();
    let policy = policy.split('"').next().unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert!(
        !policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'),
        "{policy}"
    );
    assert!(!page.contains("evil"), "texts are data");
    for file in page.split(['"', '\'']).filter(|w| w.starts_with("page/")) {
        assert!(dir.path().join(file).is_file(), "{file}");
    }
    let own = list(&dir.path().join("page"));
    for name in own.iter().filter(|n| *n != "data.js") {
        let text = std::fs::read_to_string(dir.path().join("page").join(name)).unwrap();
        let code = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!code.contains("http") && !code.contains("innerHTML"), "{name}");
    }
    assert_eq!(data(dir.path())["samples"], Value::Null);
}

#[cfg(unix)]
#[test]
fn pictures_that_are_there_are_not_drawn_again() {
    use std::os::unix::fs::MetadataExt;
    let (dir, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let results = results(1, 0.0);
    let files = Files::of(&results, store.path());
    let first = results.images.first().unwrap();
    std::fs::copy(files.file(&results.images[1]).unwrap(), files.file(first).unwrap()).unwrap();
    let written = || -> BTreeSet<(String, u64)> {
        render(&results, &files, dir.path()).unwrap();
        ["page/sheets", "page/images"]
            .iter()
            .flat_map(|folder| std::fs::read_dir(dir.path().join(folder)).unwrap())
            .map(|e| e.unwrap())
            .map(|e| (e.path().display().to_string(), e.metadata().unwrap().ino()))
            .filter(|(name, _)| !name.contains("targets"))
            .collect()
    };
    let before = written();
    assert_eq!(written(), before);
    // an image was made again: its sheet and itself are new, and what they were is gone
    RgbImage::new(20, 20).save(files.file(first).unwrap()).unwrap();
    let after = written();
    assert_eq!(after.len(), before.len());
    assert_eq!(after.difference(&before).count(), 2);
}

/// The browser, if there is one.
fn browser() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).flat_map(|dir| names.map(|n| dir.join(n))).find(|p| p.is_file())
}

/// A web server of a folder, for as long as the test runs, that hears what pages found.
struct Server {
    address: String,
    found: Receiver<String>,
}

impl Server {
    fn new(folder: PathBuf) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let (tell, found) = mpsc::channel();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let path = asked(&mut stream);
                match path.strip_prefix("verdict?") {
                    Some(verdict) => drop(tell.send(verdict.to_owned())),
                    None => answer(&mut stream, &folder.join(path)),
                }
            }
        });
        Server { address, found }
    }
}

/// The path of a request.
fn asked(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (vec![], [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    head.split_whitespace().nth(1).unwrap_or("/").trim_start_matches('/').to_owned()
}

fn answer(stream: &mut TcpStream, path: &Path) {
    let kind = match path.extension().and_then(|e| e.to_str()) {
        Some("html") => "text/html",
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("jpg") => "image/jpeg",
        Some("svg") => "image/svg+xml",
        _ => "image/png",
    };
    let (status, body) = match std::fs::read(path) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", vec![]),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let _ = stream.write_all(&[head.as_bytes(), &body].concat());
}

/// The bytes that `%` and two digits stand for.
fn unescaped(text: &str) -> String {
    let mut bytes = vec![];
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        let code = others.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let code = code.and_then(|d| u8::from_str_radix(d, 16).ok()).filter(|_| first == b'%');
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &others[2..] } else { others };
    }
    String::from_utf8(bytes).unwrap()
}

/// Opens the page in the browser with a script that uses it; what the script found.
fn driven(browser: &Path, folder: &Path, address: &str, server: &Server) -> Value {
    let page = std::fs::read_to_string(folder.join("index.html")).unwrap();
    let first = "<script defer src=\"page/data.js\">";
    let script = "<script defer src=\"page/drive.js\"></script>\n";
    std::fs::write(folder.join("driven.html"), page.replace(first, &format!("{script}{first}")))
        .unwrap();
    let drive = format!("window.driven = {:?};\n{}", server.address, include_str!("page/drive.js"));
    std::fs::write(folder.join("page/drive.js"), drive).unwrap();
    let profile = tempfile::tempdir().unwrap();
    let mut child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update"])
        .args(["--window-size=1300,900", "--remote-debugging-port=0"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("{address}driven.html"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let verdict = server.found.recv_timeout(Duration::from_secs(120));
    let _ = child.kill();
    let _ = child.wait();
    serde_json::from_str(&unescaped(&verdict.expect("a verdict in time"))).unwrap()
}

#[test]
fn the_page_works_in_a_browser() {
    let Some(browser) = browser() else {
        eprintln!("no Chromium was found: the page was not tried in a browser");
        return;
    };
    let (dir, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let results = nasty();
    render(&results, &Files::of(&results, store.path()), dir.path()).unwrap();
    let server = Server::new(dir.path().to_owned());
    for address in [format!("file://{}/", dir.path().display()), server.address.clone()] {
        let verdict = driven(&browser, dir.path(), &address, &server);
        assert_eq!(verdict["faults"], serde_json::json!([]), "{address}");
        let found = verdict["found"].as_array().unwrap();
        let wrong: Vec<&Value> = found.iter().filter(|f| f[1] != true).map(|f| &f[0]).collect();
        assert!(wrong.is_empty() && found.len() > 40, "{address}: {wrong:?} of {}", found.len());
    }
}

/// What a large report takes: `CDBENCH_LARGE=FOLDER [CDBENCH_SIDE=64] [CDBENCH_IMAGES=20000] cargo test --release
/// --test report_page large -- --ignored --nocapture`; the page stays in the folder.
#[test]
#[ignore = "a measurement"]
fn a_large_report_is_measured() {
    let number = |name: &str, usual: usize| {
        std::env::var(name).map_or(usual, |value| value.parse().expect("a number"))
    };
    let (side, count) = (number("CDBENCH_SIDE", 64) as u32, number("CDBENCH_IMAGES", 20_000));
    let out = PathBuf::from(std::env::var("CDBENCH_LARGE").expect("CDBENCH_LARGE names a folder"));
    let store = tempfile::tempdir().unwrap();
    let mut large = results(1, 0.0);
    large.cells.retain(|c| c.group == "single" && !c.anchor);
    let (mut cells, mut images) = (vec![], vec![]);
    let each = count / (10 * large.cells.len() / 3 * 20);
    for concept in 0..10 {
        for cell in large.cells.iter().filter(|c| c.concepts == ["dog_plum"]) {
            let mut own = cell.clone();
            own.id = format!("{}-{concept}", cell.method);
            own.concepts = vec![format!("concept_{concept}")];
            let rows: Vec<ImageRow> = (0..20 * each)
                .map(|n| ImageRow {
                    cell: own.id.clone(),
                    prompt: n / each,
                    text_prompt: format!("photo of a concept {concept} in place {}", n / each),
                    seed: (((n / each) << 20) | (n % each)) as u64,
                    values: [
                        (fixture::TEXT.to_owned(), vec![((n * 37) % 101) as f64 / 101.0 + 0.3]),
                        (fixture::IMAGE.to_owned(), vec![((n * 53) % 97) as f64 / 97.0]),
                    ]
                    .into(),
                    file: format!("samples/{}/{n}.png", own.id),
                    ..ImageRow::default()
                })
                .collect();
            own.measure(&rows.iter().collect::<Vec<_>>());
            cells.push(own);
            images.extend(rows);
        }
    }
    (large.cells, large.images) = (cells, images);
    // as many different pictures as a photograph's PNG is large, each with many names
    let noise = |n: u32, x: u32, y: u32| {
        let wave = |k: f32| ((x as f32 / k).sin() * (y as f32 / k + n as f32).cos() * 90.0) as i32;
        let grain = ((x * 7919 + y * 104_729 + n * 31).wrapping_mul(2_654_435_761) >> 29) as i32;
        [9.0, 17.0, 31.0].map(|k| (128 + wave(k * side as f32 / 128.0) + grain) as u8)
    };
    let pictures: Vec<PathBuf> = (0..40)
        .map(|n| {
            let path = store.path().join(format!("{n}.png"));
            RgbImage::from_fn(side, side, |x, y| Rgb(noise(n, x, y))).save(&path).unwrap();
            path
        })
        .collect();
    for (n, row) in large.images.iter().enumerate() {
        let path = store.path().join(&row.file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::hard_link(&pictures[n % pictures.len()], path).unwrap();
    }
    let files = Files(store.path().to_owned());
    for what in ["first", "again"] {
        let start = std::time::Instant::now();
        render(&large, &files, &out).unwrap();
        eprintln!(
            "{what}: {} images of {side}: {:.1} s",
            large.images.len(),
            start.elapsed().as_secs_f64()
        );
    }
    for folder in ["page", "page/sheets", "page/images"] {
        let sizes =
            std::fs::read_dir(out.join(folder)).unwrap().map(|e| e.unwrap().metadata().unwrap());
        let sizes: Vec<u64> = sizes.filter(|m| m.is_file()).map(|m| m.len()).collect();
        eprintln!(
            "{folder}: {} files, {:.1} MB",
            sizes.len(),
            sizes.iter().sum::<u64>() as f64 / 1e6
        );
    }
}

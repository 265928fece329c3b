//! Every reader of foreign bytes, given bytes that are nearly right: whatever comes, it ends in a value or
//! in an error that calls it bad input, soon, and without memory for what is not there.
//!
//! `CDBENCH_FUZZ=1000000 cargo test --release --test fuzz -- --nocapture` is the long form, and says how
//! many inputs each reader had. Of an input that a reader fails on the file is kept.

mod readers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cdbench::process;
use cdbench::rng::Rng;
use readers::{Reader, readers};

/// Inputs of all readers where nobody asks for more.
const FEW: usize = 6_000;
/// No input may take longer.
const LONGEST: Duration = Duration::from_secs(60);
/// Nor may all of them together take more memory.
const MOST_BYTES: u64 = 1 << 30;

/// Numbers at which sizes, counts and signs go wrong.
const NUMBERS: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, u64::MAX];
/// The same as texts have them, and what else stands in the place of numbers and strings.
const WORDS: [&str; 14] = [
    "0",
    "-1",
    "18446744073709551616",
    "1e999",
    "NaN",
    "null",
    "\"\"",
    "[]",
    "{}",
    "<new1>",
    "\0",
    "\u{feff}",
    "..",
    "\u{1f436}",
];

/// One of `seeds` with a few changes.
fn mutated(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seeds[rng.below(seeds.len())].clone();
    for _ in 0..=rng.below(4) {
        let at = rng.below(bytes.len() + 1);
        let end = (at + 1 + rng.below(16)).min(bytes.len());
        match rng.below(10) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at.min(end)..end)),
            2 => {
                let part = bytes[at.min(end)..end].to_vec();
                let times = 1 + rng.below(40);
                bytes.splice(at..at, part.repeat(times));
            }
            3 => {
                let other = &seeds[rng.below(seeds.len())];
                let from = rng.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            4 => {
                let random: Vec<u8> = (0..=rng.below(8)).map(|_| rng.below(256) as u8).collect();
                bytes.splice(at..at, random);
            }
            5 | 6 => {
                let number = NUMBERS[rng.below(NUMBERS.len())];
                let width = [1, 2, 4, 8][rng.below(4)];
                let number = match rng.below(2) {
                    0 => number.to_le_bytes()[..width].to_vec(),
                    _ => number.to_be_bytes()[8 - width..].to_vec(),
                };
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, number);
            }
            7 => {
                let word = WORDS[rng.below(WORDS.len())].bytes();
                // in the place of a number, if one is near
                let digit = |b: &u8| b.is_ascii_digit();
                let start = bytes[at..].iter().position(digit).map_or(at, |i| at + i);
                let length = bytes[start..].iter().take_while(|b| digit(b)).count();
                bytes.splice(start..start + length, word);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.below(8);
                }
            }
        }
    }
    bytes.truncate(1 << 20);
    bytes
}

/// What came of a reader's inputs.
#[derive(Default)]
struct Outcome {
    values: usize,
    errors: usize,
    slowest: Duration,
    failures: Vec<String>,
}

/// Ends the process where an input takes too long, and says which.
struct Watch(Mutex<Option<(Instant, String)>>);

impl Watch {
    fn start() -> &'static Watch {
        let watch: &'static Watch = Box::leak(Box::new(Watch(Mutex::new(None))));
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                if let Some((start, what)) = &*watch.0.lock().unwrap()
                    && start.elapsed() > LONGEST
                {
                    eprintln!("{what}: no end after {LONGEST:?}");
                    std::process::abort();
                }
            }
        });
        watch
    }
}

/// Writes files into a folder.
fn all(folder: &Path, files: &[(&'static str, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn run(reader: &Reader, count: usize, place: &Path, watch: &Watch) -> Outcome {
    let folder = place.join("input");
    all(&folder, &reader.beside);
    let path = folder.join(reader.file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    for seed in &reader.seeds {
        std::fs::write(&path, seed).unwrap();
        let valid = (reader.read)(&folder);
        assert!(valid.is_ok(), "{}: a valid file: {}", reader.name, valid.unwrap_err());
    }
    let mut outcome = Outcome::default();
    let mut rng = Rng::new(count as u64, reader.name);
    for i in 0..count {
        let bytes = mutated(&reader.seeds, &mut rng);
        std::fs::write(&path, &bytes).unwrap();
        let start = Instant::now();
        *watch.0.lock().unwrap() = Some((start, path.display().to_string()));
        let found = catch_unwind(AssertUnwindSafe(|| (reader.read)(&folder)));
        *watch.0.lock().unwrap() = None;
        outcome.slowest = outcome.slowest.max(start.elapsed());
        let failure = match found {
            Ok(Ok(())) => {
                outcome.values += 1;
                continue;
            }
            // what is not there, because another file names it, is the system's to say
            Ok(Err(e)) if [3, 4].contains(&e.exit_code()) => {
                outcome.errors += 1;
                continue;
            }
            Ok(Err(e)) => format!("input {i}: {e}"),
            Err(_) => format!("input {i}: a panic"),
        };
        let name: String = reader.name.chars().filter(char::is_ascii_alphanumeric).collect();
        let kept = std::env::temp_dir().join(format!("cdbench-fuzz-{name}-{i}"));
        std::fs::write(&kept, &bytes).unwrap();
        outcome.failures.push(format!("{} {failure} ({})", reader.name, kept.display()));
    }
    outcome
}

#[test]
fn whatever_comes_is_a_value_or_an_error() {
    let asked = std::env::var("CDBENCH_FUZZ").ok();
    let total: usize = asked.map_or(FEW, |n| n.parse().expect("CDBENCH_FUZZ is a number"));
    let readers = readers();
    assert_eq!(readers.iter().map(|r| r.share).sum::<usize>(), 100);
    let memory = Path::new("/dev/shm");
    let place = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let watch = Watch::start();
    let mut failures = vec![];
    for (i, reader) in readers.iter().enumerate() {
        let count = total * reader.share / 100;
        let outcome = run(reader, count, &place.path().join(i.to_string()), watch);
        println!(
            "{}: {count} inputs, {} values, {} errors, the slowest {:?}",
            reader.name, outcome.values, outcome.errors, outcome.slowest
        );
        failures.extend(outcome.failures);
    }
    let peak = process::peak_memory().unwrap_or(0);
    println!("{total} inputs, at most {} MiB", peak >> 20);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(peak < MOST_BYTES, "{peak} bytes");
}

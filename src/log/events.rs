//! TensorBoard's event files: protocol buffers in TFRecord's frames.
//!
//! The messages are the part of `tensorflow/core/util/event.proto` and `framework/summary.proto` that is
//! written here, with the numbers of their fields.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::{Error, Result, process, safefile};

/// Something that is shown at a step.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    #[prost(int64, tag = "2")]
    pub step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    pub what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    Session(Session),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(string, tag = "1")]
    pub tag: String,
    #[prost(oneof = "Shown", tags = "2, 4")]
    pub shown: Option<Shown>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Shown {
    #[prost(float, tag = "2")]
    Number(f32),
    #[prost(message, tag = "4")]
    Image(Image),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Image {
    #[prost(int32, tag = "1")]
    pub height: i32,
    #[prost(int32, tag = "2")]
    pub width: i32,
    /// 3 for RGB.
    #[prost(int32, tag = "3")]
    pub colorspace: i32,
    /// A PNG file.
    #[prost(bytes = "vec", tag = "4")]
    pub encoded: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Session {
    #[prost(int32, tag = "1")]
    pub status: i32,
}

impl Session {
    const START: i32 = 1;
}

impl Event {
    /// Numbers and pictures of a step.
    pub fn at(step: u64, wall_time: f64, values: Vec<(String, Shown)>) -> Self {
        let values = values.into_iter();
        let values = values.map(|(tag, shown)| Value { tag, shown: Some(shown) }).collect();
        let what = Some(What::Summary(Summary { values }));
        Event { wall_time, step: i64::try_from(step).unwrap_or(i64::MAX), what }
    }

    /// What every file begins with: the version of the format, and a word that all points which the folder
    /// had before, from step 0 on, are these ones again. A TensorBoard that is looking drops the old ones.
    fn beginning(wall_time: f64) -> [Event; 2] {
        let version = What::FileVersion("brain.Event:2".into());
        let start = What::Session(Session { status: Session::START });
        [version, start].map(|what| Event { wall_time, step: 0, what: Some(what) })
    }

    /// The event in its frame: the length and the message, each with its checksum.
    fn framed(&self) -> Vec<u8> {
        let message = self.encode_to_vec();
        let length = (message.len() as u64).to_le_bytes();
        let mut out = Vec::with_capacity(message.len() + 16);
        out.extend(length);
        out.extend(masked(&length).to_le_bytes());
        out.extend(&message);
        out.extend(masked(&message).to_le_bytes());
        out
    }
}

/// A CRC-32C as TFRecord has it, so that the checksum of data with checksums in them is no special one.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The event file of a folder that counts.
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
}

/// In the name of every event file; TensorBoard knows them by it.
const PREFIX: &str = "events.out.tfevents.";
/// In the name of ours.
const OURS: &str = ".cdbench.";

impl EventFile {
    /// Makes `events`, of a run that began at `since`, what a folder shows. Where they go on from what an
    /// earlier run wrote, the rest is added to its file; else a new file takes the place of it, which stays
    /// until the next one comes: who is reading it must find its end before looking for another.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn replace(folder: &Path, since: f64, events: &[Event]) -> Result<Self> {
        let beginning = Event::beginning(since);
        let bytes = beginning.iter().chain(events).flat_map(Event::framed).collect::<Vec<u8>>();
        let mut old = ours(folder)?;
        let there = old.last().and_then(|last| fs::read(last).ok());
        let rest = there.and_then(|there| bytes.strip_prefix(&there[..]));
        let path = match (rest, old.last()) {
            (Some(_), Some(last)) => last.clone(),
            (_, last) => {
                let path = folder.join(name_after(last));
                safefile::write(&path, &bytes)?;
                old.pop();
                for file in &old {
                    fs::remove_file(file).map_err(Error::io(file))?;
                }
                path
            }
        };
        let mut file = File::options().append(true).open(&path).map_err(Error::io(&path))?;
        file.write_all(rest.unwrap_or_default()).map_err(Error::io(&path))?;
        Ok(EventFile { path, file })
    }

    /// Adds an event, for those who look on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn add(&mut self, event: &Event) -> Result<()> {
        self.file.write_all(&event.framed()).map_err(Error::io(&self.path))
    }
}

/// Our event files in a folder, the latest last.
fn ours(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(Error::io(folder)(e)),
    };
    let mut found = vec![];
    for entry in entries {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(PREFIX) && name.contains(OURS) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A name behind that of an older file: TensorBoard reads files in the order of their names.
fn name_after(old: Option<&PathBuf>) -> String {
    let now = process::since_1970().as_secs();
    let numbers = old.and_then(|path| {
        let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
        let (seconds, serial) = name.split_once(OURS)?;
        Some((seconds.parse::<u64>().ok()?, serial.parse::<u64>().ok()?))
    });
    let (seconds, serial) = numbers.map_or((now, 0), |(s, n)| (now.max(s), n + 1));
    format!("{PREFIX}{seconds:010}{OURS}{serial:06}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(step: u64) -> Event {
        Event::at(step, 1.5, vec![("loss".into(), Shown::Number(0.25))])
    }

    /// The messages of a file, each of its checksums held against the bytes.
    fn messages(path: &Path) -> Vec<Event> {
        let mut bytes = &fs::read(path).unwrap()[..];
        let mut take = |n: usize| {
            let (head, tail) = bytes.split_at_checked(n)?;
            bytes = tail;
            Some(head.to_vec())
        };
        let mut found = vec![];
        while let Some(length) = take(8) {
            let n = u64::from_le_bytes(length[..].try_into().unwrap()) as usize;
            assert_eq!(take(4).unwrap(), masked(&length).to_le_bytes());
            let message = take(n).unwrap();
            assert_eq!(take(4).unwrap(), masked(&message).to_le_bytes());
            found.push(Event::decode(&message[..]).unwrap());
        }
        found
    }

    #[test]
    fn the_checksum_is_tensorflows() {
        // CRC-32C's check value, and its mask by the definition
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let crc: u32 = 0xe306_9283;
        let wanted = crc.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(masked(b"123456789"), wanted);
    }

    #[test]
    fn a_file_grows_and_gives_way() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let mut file = EventFile::replace(&folder, 1.5, &[point(1)]).unwrap();
        file.add(&point(2)).unwrap();
        let first = ours(&folder).unwrap();
        assert_eq!(first.len(), 1);
        let found = messages(&first[0]);
        assert_eq!(found.iter().map(|e| e.step).collect::<Vec<_>>(), [0, 0, 1, 2]);
        assert_eq!(found[3], point(2));
        // the same again, and more: the same file
        drop(EventFile::replace(&folder, 1.5, &[point(1), point(2)]).unwrap());
        assert_eq!(messages(&ours(&folder).unwrap()[0]), found);
        drop(EventFile::replace(&folder, 1.5, &[point(1), point(2), point(3)]).unwrap());
        assert_eq!(ours(&folder).unwrap(), first);
        assert_eq!(messages(&first[0]).len(), 5);
        // others: a file behind it, which begins by taking all back; what is not ours stays
        fs::write(folder.join("events.out.tfevents.1.host"), "theirs").unwrap();
        drop(EventFile::replace(&folder, 1.5, &[point(1)]).unwrap());
        let second = ours(&folder).unwrap();
        assert!(second.len() == 2 && second[0] == first[0] && second[1] > first[0], "{second:?}");
        let start = What::Session(Session { status: Session::START });
        assert_eq!(messages(&second[1])[1].what, Some(start));
        drop(EventFile::replace(&folder, 1.5, &[point(7)]).unwrap());
        let third = ours(&folder).unwrap();
        assert!(third.len() == 2 && third[0] == second[1] && third[1] > third[0], "{third:?}");
        assert!(folder.join("events.out.tfevents.1.host").is_file());
    }
}

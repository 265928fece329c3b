use std::fs;
use std::io::Cursor;

use super::*;

fn picture(color: u8) -> Vec<u8> {
    let mut out = Cursor::new(vec![]);
    let image = RgbImage::from_pixel(3, 2, image::Rgb([color; 3]));
    image.write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

fn captions(corpus: &dyn Corpus) -> Vec<String> {
    (0..corpus.len()).map(|i| corpus.caption(i).unwrap()).collect()
}

fn color(corpus: &dyn Corpus, index: usize) -> u8 {
    corpus.picture(index).unwrap().get_pixel(0, 0).0[0]
}

fn open(path: &Path) -> Result<Box<dyn Corpus>> {
    corpus(path.to_str().unwrap())
}

#[track_caller]
fn refused(path: &Path) -> String {
    let error = open(path).err().expect("refused");
    assert_eq!(error.exit_code(), 3, "{error}");
    error.to_string()
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_world_is_a_corpus() {
    let (corpus, validation) = (corpus("mini").unwrap(), corpus("mini-validation").unwrap());
    assert_eq!((corpus.len(), validation.len()), (20_000, 5_000));
    assert_ne!(corpus.identity(), validation.identity());
    assert_eq!(corpus.picture(3).unwrap().dimensions(), (64, 64));
    assert_eq!(corpus.caption(20_000), None);
    assert!(corpus.picture(20_000).is_err());
    assert!(super::corpus("minni").is_err());
}

#[test]
fn a_folder_of_pictures_and_texts() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    assert!(refused(dir.path()).contains("no picture with a caption"));
    write(&at("b.png"), picture(2));
    write(&at("b.txt"), " a cat\non two lines ");
    write(&at("00/a.JPG"), picture(1));
    write(&at("00/a.txt"), [b'd', b'o', b'g', 0xff]);
    write(&at("without.png"), picture(3));
    write(&at("empty.png"), picture(4));
    write(&at("empty.txt"), "\n");
    write(&at("alone.txt"), "no picture");
    let corpus = open(dir.path()).unwrap();
    assert_eq!(captions(&*corpus), ["dog\u{fffd}", "a cat on two lines"]);
    assert_eq!((color(&*corpus, 0), color(&*corpus, 1)), (1, 2));
    assert_eq!(corpus.identity(), open(dir.path()).unwrap().identity());
    write(&at("b.txt"), "a dog");
    assert_ne!(corpus.identity(), open(dir.path()).unwrap().identity());
    write(&at("b.png"), b"spoiled");
    assert!(open(dir.path()).unwrap().picture(1).unwrap_err().to_string().contains("b.png"));
}

#[test]
fn lists_of_pictures_and_captions() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write(&at("in/a.png"), picture(1));
    write(&at("in/b.png"), picture(2));
    write(&at("list.csv"), "id,Image,caption\n1,in/a.png,\"a dog, \"\"big\"\"\"\n2,in/b.png,\n");
    let csv = open(&at("list.csv")).unwrap();
    assert_eq!(captions(&*csv), ["a dog, \"big\""]);
    assert_eq!(color(&*csv, 0), 1);
    write(&at("list.tsv"), "text\tfile_name\na cat\tin/b.png\n");
    assert_eq!(captions(&*open(&at("list.tsv")).unwrap()), ["a cat"]);
    write(
        &at("metadata.jsonl"),
        "{\"file_name\": \"in/b.png\", \"text\": \"a cat\", \"n\": 1}\n\n",
    );
    let json = open(dir.path()).unwrap();
    assert_eq!((captions(&*json), color(&*json, 0)), (vec!["a cat".to_owned()], 2));

    for outside in ["../x.png", "/etc/passwd", "in/../../x.png", ""] {
        write(&at("list.csv"), format!("image,caption\nin/a.png,ok\n\"{outside}\",a dog\n"));
        assert!(refused(&at("list.csv")).contains("line 3"), "{outside}");
        let line = serde_json::json!({ "file_name": outside, "text": "x" }).to_string();
        write(&at("x.jsonl"), line);
        assert!(refused(&at("x.jsonl")).contains("line 1"), "{outside}");
    }
    write(&at("list.csv"), "picture,words\na,b\n");
    assert!(refused(&at("list.csv")).contains("`picture`, `words`"));
    write(&at("list.csv"), "image,caption\n");
    assert!(refused(&at("list.csv")).contains("no picture"));
    write(&at("list.csv"), "image,caption\na.png\n");
    assert!(refused(&at("list.csv")).contains("list.csv"));
    write(&at("x.jsonl"), "[1]");
    assert!(refused(&at("x.jsonl")).contains("line 1"));
    write(&at("list.parquet"), "x");
    assert!(refused(&at("list.parquet")).contains("no corpus"));
}

#[test]
fn what_a_list_names_and_nobody_has_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write(&at("in/a.png"), picture(1));
    let whole = at("in/a.png").display().to_string();
    for path in ["in/a.png", "./in/a.png", &whole] {
        let csv = format!("image,caption\nnone.png,a cat\nin,a folder\n{path},a dog\n");
        write(&at("list.csv"), csv);
        let corpus = open(&at("list.csv")).unwrap();
        assert_eq!((captions(&*corpus), color(&*corpus, 0)), (vec!["a dog".to_owned()], 1));
    }
    write(&at("list.csv"), "image,caption\nin/a.png,\nnone.png,a dog\n");
    let error = refused(&at("list.csv"));
    assert!(error.contains("line 3") && error.contains("none.png"), "{error}");
}

/// The same pictures and captions in a folder, a list and a shard, among what systems leave there.
#[test]
fn folders_lists_and_shards_have_the_same_rules() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let json = "\u{feff}{\"caption\": \"from json\"}";
    let text = "\u{feff}from text";
    let (one, two, three) = (picture(1), picture(2), picture(3));
    let members: Vec<(&str, &[u8])> = vec![
        ("._000.png", b"mac"),
        ("000.png", &one),
        ("._000.txt", b"mac"),
        ("000.json", json.as_bytes()),
        ("000.TXT", text.as_bytes()),
        ("__MACOSX/000.png", &three),
        ("__MACOSX/000.txt", b"mac"),
        ("001.png", &two),
        ("001.json", json.as_bytes()),
        (".DS_Store", b"mac"),
        ("002.caption", b"from caption"),
        ("002.png", &three),
        ("Thumbs.db", b"windows"),
    ];
    for (name, bytes) in &members {
        write(&at("folder").join(name), bytes);
    }
    write(&at("shards/0.tar"), shard(&members));
    write(&at("shards/._0.tar"), b"mac");
    let rows = [
        ("._000.png", "mac"),
        ("000.png", "from text"),
        ("001.png", "from json"),
        ("002.png", "from caption"),
    ];
    let line = |(path, caption): (&str, &str)| format!("{path},{caption}\n");
    let csv = "\u{feff}file_name,text\n".to_owned() + &rows.map(line).concat();
    write(&at("folder/list.csv"), csv);
    let line = |(path, caption): (&str, &str)| {
        format!("{{\"file_name\": \"{path}\", \"text\": \"{caption}\"}}\n")
    };
    write(&at("folder/list.jsonl"), "\u{feff}".to_owned() + &rows.map(line).concat());
    for name in ["folder", "shards", "folder/list.csv", "folder/list.jsonl"] {
        let corpus = open(&at(name)).unwrap();
        assert_eq!(captions(&*corpus), ["from text", "from json", "from caption"], "{name}");
        assert_eq!([0, 1, 2].map(|i| color(&*corpus, i)), [1, 2, 3], "{name}");
    }
}

#[test]
fn what_is_compressed_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0";
    for name in ["a.tar", "a.tar.gz", "a.tgz", "a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz"] {
        write(&at(name), gzip);
        let error = open(&at(name)).err().unwrap();
        assert!(error.to_string().contains("gzip"), "{name}: {error}");
        assert!(error.hint().unwrap().contains("gunzip"), "{error}");
    }
    for name in ["00000.tar.gz", "metadata.jsonl.gz", "metadata.jsonl", "1.tar"] {
        let folder = at(&format!("in {name}"));
        write(&folder.join(name), gzip);
        assert!(refused(&folder).contains("gzip"), "{name}");
    }
}

fn shard(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(vec![]);
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // names as an attacker would write them
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn shards_are_read_where_they_lie() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (one, two, three) = (picture(1), picture(2), picture(3));
    let json = br#"{"caption": "from json", "width": 3}"#;
    let first = shard(&[
        ("x/000.png", &one),
        ("x/000.txt", b"a dog"),
        ("x/000.json", json),
        ("x/001.json", json),
        ("x/001.jpg", &two),
        ("x/002.png", &three),
    ]);
    write(&at("s-0.tar"), &first);
    write(&at("s-1.tar"), shard(&[("../../evil.png", &three), ("../../evil.txt", b"a cat")]));
    let corpus = open(dir.path()).unwrap();
    assert_eq!(captions(&*corpus), ["a dog", "from json", "a cat"]);
    assert_eq!([0, 1, 2].map(|i| color(&*corpus, i)), [1, 2, 3]);
    assert!(corpus.picture(3).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is written");
    let single = open(&at("s-1.tar")).unwrap();
    assert_eq!(captions(&*single), ["a cat"]);
    assert_ne!(single.identity(), corpus.identity());

    for cut in [513, 560, 1300] {
        write(&at("s-0.tar"), &first[..cut]);
        assert!(refused(dir.path()).contains("s-0.tar"), "{cut}");
    }
    write(&at("s-0.tar"), b"not a tar file, but long enough for none".repeat(20));
    assert!(refused(dir.path()).contains("s-0.tar"));
    let apart = [("a.png", &one[..]), ("b.png", &two), ("a.txt", b"late")];
    write(&at("s-0.tar"), shard(&apart));
    assert!(refused(&at("s-0.tar")).contains("not together"));
    write(&at("s-0.tar"), shard(&[("a.png", &one)]));
    assert!(refused(&at("s-0.tar")).contains("no shard has"));
}

#[test]
fn captions_become_a_line() {
    assert_eq!(clean(" a \n\t b "), Some("a b".into()));
    assert_eq!(clean(" \n"), None);
    assert_eq!(clean(&"é".repeat(MAX_CAPTION)).unwrap().len(), MAX_CAPTION);
}

use super::*;
use crate::diffusion::folder::{self, LAYOUT};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

fn hub(cache: &Path) -> Hub {
    Hub {
        cache: cache.to_owned(),
        token: None,
        // nobody listens here
        endpoint: Some("http://127.0.0.1:1".into()),
        offline: false,
        progress: false,
    }
}

fn id(text: &str) -> HubId {
    HubId::parse(text).unwrap()
}

#[test]
fn ids_are_told_from_paths() {
    let plain = id("owner/name-1.5");
    assert_eq!((plain.repo.as_str(), plain.revision.as_str()), ("owner/name-1.5", "main"));
    assert_eq!(id("a/b@refs/pr/1").revision, "refs/pr/1");
    assert_eq!(id("a/b@fp16").to_string(), "a/b@fp16");
    for text in [
        "",
        "name",
        "/a/b",
        "./a",
        "../a",
        "a/b/c",
        "a/..",
        "a/b@",
        "a/b@../../x",
        "a/b@/x",
        "a b/c",
        "~/x",
        "a\\b/c",
        "a/b@x/../y",
        "/",
        "a/",
        "-a/b",
    ] {
        assert_eq!(HubId::parse(text), None, "{text}");
    }
}

#[test]
fn the_environment_says_where_the_cache_is() {
    let from = |vars: &[(&str, &str)]| {
        let vars: BTreeMap<_, _> = vars.iter().copied().collect();
        Hub::from_vars(|name| vars.get(name).map(|value| (*value).to_owned()))
    };
    let cache = |vars: &[(&str, &str)]| from(vars).unwrap().cache;
    assert_eq!(cache(&[("HOME", "/h")]), Path::new("/h/.cache/huggingface/hub"));
    assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
    assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "/f")]), Path::new("/f/hub"));
    assert_eq!(cache(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
    assert!(cache(&[("HF_HUB_CACHE", "relative")]).is_absolute());
    assert!(from(&[]).unwrap_err().hint().unwrap().contains("HF_HOME"));
    for (value, offline) in [("1", true), ("True", true), ("0", false), ("no", false)] {
        assert_eq!(from(&[("HOME", "/h"), ("HF_HUB_OFFLINE", value)]).unwrap().offline, offline);
    }
}

/// Lays a backbone out as the cache does.
fn cached(cache: &Path, revision: &str) -> PathBuf {
    let model = cache.join("models--owner--name");
    let commit = "0123456789abcdef";
    let refs = model.join("refs").join(revision);
    std::fs::create_dir_all(refs.parent().unwrap()).unwrap();
    std::fs::write(refs, commit).unwrap();
    let snapshot = model.join("snapshots").join(commit);
    folder::tests::backbone_folder(&snapshot);
    snapshot
}

#[test]
fn a_complete_snapshot_needs_no_network() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = cached(dir.path(), "main");
    assert_eq!(hub(dir.path()).folder(&id("owner/name"), &LAYOUT).unwrap(), snapshot);
    // by commit, too
    assert_eq!(
        hub(dir.path()).folder(&id("owner/name@0123456789abcdef"), &LAYOUT).unwrap(),
        snapshot
    );
    assert!(hub(dir.path()).folder(&id("owner/name@v2"), &LAYOUT).is_err());
}

#[test]
fn what_cannot_be_had_is_said_with_where_to_put_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().display().to_string();
    let offline = Hub { offline: true, ..hub(dir.path()) };
    let error = offline.folder(&id("owner/name@v2"), &LAYOUT).unwrap_err();
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    let hint = error.hint().unwrap();
    for part in ["owner/name --revision v2", "models--owner--name", &cache] {
        assert!(hint.contains(part), "{hint}");
    }
    let error = hub(dir.path()).folder(&id("owner/name"), &LAYOUT).unwrap_err();
    assert!(error.to_string().contains("downloading failed"), "{error}");

    let snapshot = cached(dir.path(), "main");
    std::fs::remove_file(snapshot.join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    let error = offline.folder(&id("owner/name"), &LAYOUT).unwrap_err().to_string();
    assert!(error.contains("vae/diffusion_pytorch_model.safetensors is missing"), "{error}");
}

#[test]
fn a_ref_cannot_lead_out_of_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = cached(dir.path(), "main");
    std::fs::rename(snapshot, dir.path().join("elsewhere")).unwrap();
    std::fs::write(dir.path().join("models--owner--name/refs/main"), "../../elsewhere").unwrap();
    assert_eq!(hub(dir.path()).snapshot(&id("owner/name")), None);
}

/// Serves a folder as the hub does, listing `files`, and returns the address.
fn serve(root: PathBuf, files: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines =
                BufReader::new(stream.try_clone().unwrap()).lines().map_while(|l| l.ok());
            let Some(request) = lines.next() else { continue };
            let headers: Vec<_> =
                lines.take_while(|l| !l.is_empty()).map(|l| l.to_ascii_lowercase()).collect();
            let target = request.split(' ').nth(1).unwrap();
            let (head, body) = if target == "/api/models/owner/name/revision/main" {
                let siblings: Vec<_> =
                    files.iter().map(|f| serde_json::json!({ "rfilename": f })).collect();
                let info = serde_json::json!({ "siblings": siblings, "sha": "abc123" });
                ("200 OK".to_owned(), info.to_string().into_bytes())
            } else {
                let file = target.strip_prefix("/owner/name/resolve/main/").unwrap();
                let bytes = std::fs::read(root.join(file)).unwrap();
                let range = headers.iter().find_map(|h| h.strip_prefix("range: bytes=")).unwrap();
                let (start, end) = range.split_once('-').unwrap();
                let start: usize = start.parse().unwrap();
                let end = end.parse().map_or(bytes.len(), |end: usize| end + 1);
                let head = format!(
                    "206 Partial Content\r\nx-repo-commit: abc123\r\netag: \"{}\"\r\n\
                     content-range: bytes {start}-{}/{}",
                    file.replace('/', "-"),
                    end - 1,
                    bytes.len()
                );
                (head, bytes[start..end].to_vec())
            };
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            )
            .and_then(|()| stream.write_all(&body))
            .unwrap();
        }
    });
    address
}

#[test]
fn what_is_downloaded_is_found_again_without_a_network() {
    // the client library sends even local requests through a proxy
    if ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"]
        .iter()
        .any(|v| std::env::var_os(v).or(std::env::var_os(v.to_lowercase())).is_some())
    {
        return;
    }
    let (remote, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    folder::tests::backbone_folder(remote.path());
    std::fs::write(remote.path().join("README.md"), "not needed").unwrap();
    let files = [
        "README.md",
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    ];
    let all = files.map(str::to_owned).to_vec();
    let online = Hub { endpoint: Some(serve(remote.path().to_owned(), all)), ..hub(cache.path()) };
    let folder = online.folder(&id("owner/name"), &LAYOUT).unwrap();
    assert!(folder.starts_with(cache.path()) && !folder.join("README.md").exists());
    crate::diffusion::BackboneFiles::open_folder(&folder).unwrap();
    let offline = Hub { offline: true, ..hub(cache.path()) };
    assert_eq!(offline.folder(&id("owner/name"), &LAYOUT).unwrap(), folder);

    let few = Hub {
        endpoint: Some(serve(remote.path().to_owned(), vec!["README.md".into()])),
        ..hub(&cache.path().join("other"))
    };
    let error = few.folder(&id("owner/name"), &LAYOUT).unwrap_err().to_string();
    assert!(error.contains("it has no model_index.json"), "{error}");
}

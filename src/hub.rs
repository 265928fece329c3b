//! Models by hub id: from the cache that Python's libraries share, or downloaded into it.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use crate::{Error, Result};

/// A model on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    /// `owner/name`
    pub repo: String,
    /// Branch, tag or commit; `main` where none is given.
    pub revision: String,
}

impl HubId {
    /// Takes `owner/name` or `owner/name@revision`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (owner, name) = repo.split_once('/')?;
        // the parts become folder names of the cache
        let word = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                && !part.contains("..")
        };
        let known = word(owner) && word(name) && revision.split('/').all(word);
        known.then(|| HubId { repo: repo.into(), revision: revision.into() })
    }

    fn cache_name(&self) -> String {
        format!("models--{}", self.repo.replace('/', "--"))
    }
}

impl std::fmt::Display for HubId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision.as_str() {
            "main" => write!(f, "{}", self.repo),
            revision => write!(f, "{}@{revision}", self.repo),
        }
    }
}

/// What is needed of a model on the hub.
pub struct Layout {
    /// What the model is, in messages.
    pub what: &'static str,
    /// Whose layout its folder has.
    pub owner: &'static str,
    /// Which of the files that the hub lists to download; the error names one that should be there and
    /// is not.
    pub wanted: fn(&[String]) -> std::result::Result<Vec<String>, String>,
    /// What a folder still lacks, as paths below it.
    pub missing: fn(&Path) -> Vec<String>,
}

/// Where models are cached, and whether more may be fetched.
#[derive(Clone, Debug)]
pub struct Hub {
    cache: PathBuf,
    token: Option<String>,
    endpoint: Option<String>,
    offline: bool,
    progress: bool,
}

impl Hub {
    /// As Python's `huggingface_hub` reads its environment: `HF_HUB_CACHE`, `HF_HOME`,
    /// `XDG_CACHE_HOME`, `HF_HUB_OFFLINE`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_ENDPOINT`.
    ///
    /// # Errors
    /// [`Error::Input`] if no variable says where the cache is and there is no home folder.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let path = |name| var(name).map(PathBuf::from);
        let home =
            path("HF_HOME").or_else(|| Some(path("XDG_CACHE_HOME")?.join("huggingface"))).or_else(
                || Some(path("HOME").or_else(|| path("USERPROFILE"))?.join(".cache/huggingface")),
            );
        let below_home = |name| home.as_ref().map(|home| home.join(name));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| below_home("hub"))
            .ok_or_else(|| {
                Error::input_hint("there is no home folder to cache models in", "set HF_HOME")
            })?;
        let token_file = path("HF_TOKEN_PATH").or_else(|| below_home("token"));
        let stored = || std::fs::read_to_string(token_file?).ok();
        let yes = |value: String| {
            ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
        };
        Ok(Hub {
            // hf-hub needs absolute paths for its links
            cache: std::path::absolute(&cache).map_err(Error::io(&cache))?,
            token: var("HF_TOKEN").or_else(stored).map(|token| token.trim().to_owned()),
            endpoint: var("HF_ENDPOINT"),
            offline: var("HF_HUB_OFFLINE").is_some_and(yes),
            progress: true,
        })
    }

    /// Where models are cached.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Whether downloads are forbidden.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// The models that the cache has something of, by their ids.
    pub fn models(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.cache).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut models: Vec<String> = names
            .filter_map(|name| Some(name.strip_prefix("models--")?.replace("--", "/")))
            .collect();
        models.sort();
        models
    }

    /// The folder of a model: what the cache has, if it is complete (no newer version is looked for), or
    /// else downloaded.
    ///
    /// # Errors
    /// [`Error::Input`] that says what to fetch and where to put it.
    pub fn folder(&self, id: &HubId, layout: &Layout) -> Result<PathBuf> {
        let cached = self.snapshot(id);
        let reason = match &cached {
            Some(folder) => match (layout.missing)(folder).as_slice() {
                [] => return Ok(folder.clone()),
                missing => format!("in the cache, {} is missing", missing.join(", ")),
            },
            None => "it is not in the cache".into(),
        };
        let failure = if self.offline {
            "HF_HUB_OFFLINE forbids downloads".to_owned()
        } else {
            match self.download(id, layout) {
                Ok(folder) => return Ok(folder),
                Err(failure) => failure,
            }
        };
        let revision = match id.revision.as_str() {
            "main" => String::new(),
            revision => format!(" --revision {revision}"),
        };
        Err(Error::input_hint(
            format!("{} `{id}`: {reason} ({}), and {failure}", layout.what, self.cache.display()),
            format!(
                "where there is a network, run `hf download {}{revision}` and copy the cache's \
                 folder {} to {}; or give the path of a folder in {}' layout",
                id.repo,
                id.cache_name(),
                self.cache.display(),
                layout.owner,
            ),
        ))
    }

    /// The cached files of a revision: a branch or tag as it was last seen, or a commit.
    fn snapshot(&self, id: &HubId) -> Option<PathBuf> {
        let model = self.cache.join(id.cache_name());
        let commit = std::fs::read_to_string(model.join("refs").join(&id.revision))
            .map(|commit| commit.trim().to_owned())
            .unwrap_or_else(|_| id.revision.clone());
        let plain = !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric());
        let folder = model.join("snapshots").join(commit);
        (plain && folder.is_dir()).then_some(folder)
    }

    /// Fetches what is needed; the error is the end of a sentence.
    fn download(&self, id: &HubId, layout: &Layout) -> std::result::Result<PathBuf, String> {
        let failed = |e: ApiError| format!("downloading failed: {e}");
        let mut builder = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_token(self.token.clone())
            .with_progress(self.progress)
            .with_retries(3);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        let repo = Repo::with_revision(id.repo.clone(), RepoType::Model, id.revision.clone());
        let api = builder.build().map_err(failed)?.repo(repo);
        let listed = api.info().map_err(failed)?.siblings;
        let listed: Vec<_> = listed.into_iter().map(|file| file.rfilename).collect();
        let wanted = (layout.wanted)(&listed).map_err(|missing| {
            format!("the hub's copy is not in {}' layout: it has no {missing}", layout.owner)
        })?;
        for file in wanted {
            api.get(&file).map_err(failed)?;
        }
        let folder = self.snapshot(id).ok_or("the download is not in the cache")?;
        match (layout.missing)(&folder).as_slice() {
            [] => Ok(folder),
            missing => Err(format!("after downloading, {} is missing", missing.join(", "))),
        }
    }
}

/// What a user gives as the path of a model, or as its hub id; nothing where it is neither.
///
/// # Errors
/// [`Error::Input`] if the hub's model cannot be had.
pub fn find(given: &str, layout: &Layout) -> Result<Option<PathBuf>> {
    let path = Path::new(given);
    if path.exists() {
        return Ok(Some(path.to_owned()));
    }
    HubId::parse(given).map(|id| Hub::from_env()?.folder(&id, layout)).transpose()
}

/// What stands as the path of a model in a file of `base`, or is typed there: a path that starts at
/// `base`, but for a hub id.
pub fn below(base: &Path, given: &str) -> String {
    let full = base.join(given);
    match HubId::parse(given) {
        Some(_) if !full.exists() => given.to_owned(),
        _ => full.to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests;

//! A client of MLflow's tracking server: the calls of its REST API that an export makes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{Error, Result};

/// A tracking server.
pub struct Tracking {
    agent: ureq::Agent,
    uri: String,
    token: Option<String>,
}

/// Values of one call: what the server takes at most.
const METRICS: usize = 1000;
const PARAMS: usize = 100;
/// Longer values are refused.
const LONGEST: usize = 6000;

/// A value of a metric at a step.
pub(super) struct Measured {
    pub key: String,
    pub value: f64,
    /// In seconds since 1970.
    pub time: f64,
    pub step: u64,
}

impl Tracking {
    /// The server at `uri`, such as `http://127.0.0.1:5000`; nothing is asked yet. `token` is what it knows
    /// its users by, if it does.
    ///
    /// # Errors
    /// [`Error::Input`] for what is no address of a server.
    pub fn new(uri: &str, token: Option<String>) -> Result<Self> {
        if !["http://", "https://"].iter().any(|scheme| uri.starts_with(scheme)) {
            return Err(Error::input_hint(
                format!("`{uri}` is no address of an MLflow server"),
                "runs are sent to a server: start one with `mlflow server`, and give --tracking-uri \
                 http://127.0.0.1:5000",
            ));
        }
        let agent = ureq::AgentBuilder::new()
            .timeout_connect(Duration::from_secs(10))
            .timeout(Duration::from_secs(120))
            .build();
        Ok(Tracking { agent, uri: uri.trim_end_matches('/').to_owned(), token })
    }

    fn send(&self, method: &str, path: &str, body: Body) -> Result<Answer> {
        let mut request = self.agent.request(method, &format!("{}/api/2.0/{path}", self.uri));
        if let Some(token) = &self.token {
            request = request.set("Authorization", &format!("Bearer {token}"));
        }
        let answer = match body {
            Body::Json(value) => request.send_json(value),
            Body::Bytes(bytes) => request.send_bytes(bytes),
            Body::None => request.call(),
        };
        match answer {
            Ok(answer) => {
                let text = answer.into_string().map_err(|e| self.lost(&e.to_string()))?;
                Ok(Answer::Done(serde_json::from_str(&text).unwrap_or(Value::Null)))
            }
            Err(ureq::Error::Status(code, answer)) => {
                let text = answer.into_string().unwrap_or_default();
                let said: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
                let word = |key: &str| said.get(key).and_then(Value::as_str).unwrap_or_default();
                let message = match word("message") {
                    "" => text.lines().next().unwrap_or_default().chars().take(200).collect(),
                    message => message.to_owned(),
                };
                Ok(Answer::Refused { code, kind: word("error_code").to_owned(), message })
            }
            Err(error) => Err(self.lost(&error.to_string())),
        }
    }

    fn lost(&self, what: &str) -> Error {
        Error::input_hint(
            format!("{}: the MLflow server cannot be reached: {what}", self.uri),
            "see that it runs, and give its address with --tracking-uri or MLFLOW_TRACKING_URI; what was sent \
             is there, the same command goes on",
        )
    }

    fn call(&self, method: &str, path: &str, body: Body) -> Result<Value> {
        match self.send(method, path, body)? {
            Answer::Done(value) => Ok(value),
            Answer::Refused { code, message, .. } => Err(Error::input(format!(
                "{}: the MLflow server refused {path}: {code} {message}",
                self.uri
            ))),
        }
    }

    fn post(&self, path: &str, body: Value) -> Result<Value> {
        self.call("POST", path, Body::Json(body))
    }

    /// A text of an answer.
    fn text(&self, answer: &Value, pointer: &str) -> Result<String> {
        let found = answer.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        found.ok_or_else(|| {
            Error::input(format!("{}: no MLflow server: an answer has no {pointer}", self.uri))
        })
    }

    /// The id of the experiment of this name, which is made if it is not there.
    pub(super) fn experiment(&self, name: &str) -> Result<String> {
        let path = format!("mlflow/experiments/get-by-name?experiment_name={}", encoded(name));
        match self.send("GET", &path, Body::None)? {
            Answer::Done(found) => self.text(&found, "/experiment/experiment_id"),
            Answer::Refused { kind, .. } if kind == "RESOURCE_DOES_NOT_EXIST" => {
                let made = self.post("mlflow/experiments/create", json!({ "name": name }))?;
                self.text(&made, "/experiment_id")
            }
            Answer::Refused { code, message, .. } => Err(Error::input(format!(
                "{}: the MLflow server refused to say what experiment `{name}` is: {code} {message}",
                self.uri
            ))),
        }
    }

    /// The runs of an experiment that have a tag with this value: their ids, and whether each is finished.
    pub(super) fn runs(
        &self,
        experiment: &str,
        tag: &str,
        value: &str,
    ) -> Result<Vec<(String, bool)>> {
        let body = json!({
            "experiment_ids": [experiment],
            "filter": format!("tags.`{tag}` = '{value}'"),
            "max_results": 100,
        });
        let found = self.post("mlflow/runs/search", body)?;
        let runs = found.get("runs").and_then(Value::as_array).cloned().unwrap_or_default();
        let one = |run: &Value| {
            let id = self.text(run, "/info/run_id")?;
            Ok((id, run.pointer("/info/status").and_then(Value::as_str) == Some("FINISHED")))
        };
        runs.iter().map(one).collect()
    }

    /// Begins a run, and says where its files go.
    pub(super) fn begin(
        &self,
        experiment: &str,
        name: &str,
        seconds: f64,
        tags: &[(String, String)],
    ) -> Result<Run<'_>> {
        let body = json!({
            "experiment_id": experiment,
            "run_name": name,
            "start_time": milliseconds(seconds),
            "tags": pairs(tags),
        });
        let made = self.post("mlflow/runs/create", body)?;
        let id = self.text(&made, "/run/info/run_id")?;
        let artifacts = made.pointer("/run/info/artifact_uri").and_then(Value::as_str);
        Ok(Run { server: self, id, artifacts: artifacts.unwrap_or_default().to_owned() })
    }

    /// Takes a run away that was not finished.
    pub(super) fn delete(&self, id: &str) -> Result<()> {
        self.post("mlflow/runs/delete", json!({ "run_id": id })).map(drop)
    }
}

enum Body<'a> {
    None,
    Json(Value),
    Bytes(&'a [u8]),
}

enum Answer {
    Done(Value),
    Refused { code: u16, kind: String, message: String },
}

/// A run on the server.
pub(super) struct Run<'a> {
    server: &'a Tracking,
    id: String,
    artifacts: String,
}

impl Run<'_> {
    pub fn params(&self, params: &[(String, String)]) -> Result<()> {
        params.chunks(PARAMS).try_for_each(|some| {
            let body = json!({ "run_id": self.id, "params": pairs(some) });
            self.server.post("mlflow/runs/log-batch", body).map(drop)
        })
    }

    pub fn metrics(&self, metrics: &[Measured]) -> Result<()> {
        let finite: Vec<&Measured> = metrics.iter().filter(|m| m.value.is_finite()).collect();
        finite.chunks(METRICS).try_for_each(|some| {
            let one = |m: &&Measured| {
                json!({
                    "key": key(&m.key),
                    "value": m.value,
                    "timestamp": milliseconds(m.time),
                    "step": m.step,
                })
            };
            let all: Vec<Value> = some.iter().map(one).collect();
            let body = json!({ "run_id": self.id, "metrics": all });
            self.server.post("mlflow/runs/log-batch", body).map(drop)
        })
    }

    /// Keeps a file beside the run, if the server takes files itself; whether it does.
    pub fn file(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        let Some(folder) = self.artifacts.strip_prefix("mlflow-artifacts:/") else {
            return Ok(false);
        };
        let path = format!("{}/{name}", folder.trim_start_matches('/'));
        let path = format!("mlflow-artifacts/artifacts/{}", encoded(&path));
        self.server.call("PUT", &path, Body::Bytes(bytes)).map(|_| true)
    }

    pub fn finish(&self, seconds: f64) -> Result<()> {
        let end = milliseconds(seconds);
        let body = json!({ "run_id": self.id, "status": "FINISHED", "end_time": end });
        self.server.post("mlflow/runs/update", body).map(drop)
    }
}

fn milliseconds(seconds: f64) -> i64 {
    (1e3 * seconds) as i64
}

fn pairs(pairs: &[(String, String)]) -> Vec<Value> {
    let cut = |value: &str| value.chars().take(LONGEST).collect::<String>();
    pairs.iter().map(|(name, value)| json!({ "key": key(name), "value": cut(value) })).collect()
}

/// A name as the server takes it: `image-alignment@dino` is `image-alignment:dino`.
fn key(name: &str) -> String {
    let plain = |c: char| match c {
        '@' => ':',
        c if c.is_alphanumeric() || "_-. :/".contains(c) => c,
        _ => '_',
    };
    name.chars().map(plain).collect()
}

/// Text as a part of an address, slashes left alone.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                out.push(byte.into());
            }
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_server_takes() {
        assert_eq!(key("image-alignment@dino"), "image-alignment:dino");
        assert_eq!(key("text#1 (a)"), "text_1 _a_");
        assert_eq!(encoded("a b/ü?.png"), "a%20b/%C3%BC%3F.png");
    }

    #[test]
    fn what_is_no_server_is_refused_and_one_that_is_away_said() {
        let error = Tracking::new("sqlite:///mlflow.db", None).err().unwrap();
        assert!(error.hint().unwrap().contains("mlflow server"), "{error}");
        // a port that was free a moment ago
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Tracking::new(&format!("http://127.0.0.1:{port}/"), None).unwrap();
        let error = server.experiment("x").unwrap_err();
        assert!(error.to_string().contains("cannot be reached"), "{error}");
        assert_eq!(error.exit_code(), 3);
    }
}

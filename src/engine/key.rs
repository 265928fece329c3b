//! What a stage means, and the hash of it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The hash of what a stage means: never of when, where or how fast it ran.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    /// Of a meaning. The order of an object's keys does not count.
    pub fn of(meaning: &Value) -> Self {
        let mut text = String::new();
        canonical(meaning, &mut text);
        Key(hex(&text))
    }

    /// Enough of it to name a folder.
    pub fn short(&self) -> &str {
        &self.0[..16]
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// The sha-256 of bytes, in lowercase hexadecimal digits.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// JSON with sorted keys and no spaces.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            out.push('{');
            for key in keys {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                canonical(&map[key], out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// Where two meanings differ, as people read it: `settings.lr 0.001 → 0.002`.
pub fn differences(old: &Value, new: &Value) -> Vec<String> {
    let mut found = vec![];
    compare("", old, new, &mut found);
    found
}

fn compare(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let of = |map: &serde_json::Map<String, Value>| {
                    map.get(key).cloned().unwrap_or_default()
                };
                compare(&path, &of(a), &of(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}.{i}"), a, b, found);
            }
        }
        (a, b) if a != b => found.push(format!("{path} {} → {}", brief(a), brief(b))),
        _ => {}
    }
}

fn brief(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{} entries]", items.len()),
        Value::Object(_) => "{…}".into(),
        Value::String(s) if s.len() > 24 => format!("{}…", s.chars().take(12).collect::<String>()),
        Value::Null => "nothing".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn order_does_not_count_and_values_do() {
        let a: Value = serde_json::from_str(r#"{"a":1,"b":{"x":[1,2],"y":"z"}}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{"b":{"y":"z","x":[1,2]},"a":1}"#).unwrap();
        assert_eq!(Key::of(&a), Key::of(&b));
        for other in [
            json!({"a":1}),
            json!({"a":1,"b":{"x":[2,1],"y":"z"}}),
            json!({"a":"1","b":{"x":[1,2],"y":"z"}}),
        ] {
            assert_ne!(Key::of(&a), Key::of(&other));
        }
    }

    #[test]
    fn differences_name_the_path() {
        let old = json!({"settings": {"lr": 1, "steps": 250}, "seeds": [1, 2]});
        let new = json!({"settings": {"lr": 2, "steps": 250}, "seeds": [1, 2, 3], "extra": true});
        assert_eq!(
            differences(&old, &new),
            ["extra nothing → true", "seeds [2 entries] → [3 entries]", "settings.lr 1 → 2"]
        );
    }
}

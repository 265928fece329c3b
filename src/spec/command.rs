//! What a row must say whose method is a program of others, and others must not.

use super::Row;
use crate::methods::{COMMAND, OF_SAMPLERS, OF_TRAINERS, fill};
use crate::{Error, Result};

impl Row {
    pub(super) fn check_command(&self) -> Result<()> {
        let given = [
            ("train", self.train.is_some()),
            ("sample", self.sample.is_some()),
            ("version", self.version.is_some()),
            ("version_command", self.version_command.is_some()),
            ("inputs", !self.inputs.is_empty()),
            ("timeout", self.timeout.is_some()),
        ];
        if self.method != COMMAND {
            return match given.iter().find(|(_, given)| *given) {
                None => Ok(()),
                Some((key, _)) => Err(Error::input_hint(
                    format!("`{key}` is of programs of others, and `{}` is none", self.method),
                    format!("give it with method = \"{COMMAND}\", see docs/external-methods.md"),
                )),
            };
        }
        if self.train.is_none() && self.sample.is_none() {
            return Err(Error::input_hint(
                format!("method = \"{COMMAND}\" without `train` and `sample`"),
                "give one of them, such as train = [\"python\", \"x.py\", \"--out\", \"{out}\"]",
            ));
        }
        let all = [
            ("train", &self.train, &OF_TRAINERS[..], &["out"][..]),
            ("sample", &self.sample, &OF_SAMPLERS[..], &["prompts", "out"][..]),
            ("version_command", &self.version_command, &[][..], &[][..]),
        ];
        for (key, args, known, needed) in all {
            if let Some(args) = args {
                check_args(args, known, needed, &self.settings)
                    .map_err(|e| e.of(&format!("`{key}`")))?;
            }
        }
        check_names(&self.settings, &OF_SAMPLERS)?;
        check_version(self.version.as_deref(), self.version_command.as_deref())?;
        check_timeout(self.timeout)?;
        if self.compress.is_some() && (self.sample.is_some() || self.train.is_none()) {
            return Err(Error::input_hint(
                "`compress` of a checkpoint that another program reads",
                "take `sample` away: a checkpoint that this program reads can be compressed",
            ));
        }
        Ok(())
    }
}

/// Whether arguments name a program and tell it what it must know: `known` names and settings may stand in
/// them in braces, and `needed` must.
pub(super) fn check_args(
    args: &[String],
    known: &[&str],
    needed: &[&str],
    settings: &toml::Table,
) -> Result<()> {
    let Some(program) = args.first().filter(|program| !program.is_empty()) else {
        return Err(Error::input("it names no program"));
    };
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(Error::input("an argument has a zero byte in it"));
    }
    let seen = std::cell::RefCell::new(vec![]);
    let value = |name: &str| {
        seen.borrow_mut().push(name.to_owned());
        let there = known.contains(&name) || settings.contains_key(name);
        there.then(String::new)
    };
    args.iter().try_for_each(|arg| fill(arg, known, &value).map(|_| ()))?;
    let lacks = |name: &&&str| !seen.borrow().iter().any(|s| s == **name);
    match needed.iter().find(lacks) {
        None => Ok(()),
        Some(name) => Err(Error::input_hint(
            format!("no argument of `{program}` has {{{name}}}"),
            "the program must be told; see docs/external-methods.md",
        )),
    }
}

/// Whether settings leave the names alone that mean something else in arguments.
pub(super) fn check_names(settings: &toml::Table, taken: &[&str]) -> Result<()> {
    match settings.keys().find(|key| taken.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(Error::input_hint(
            format!("`settings.{key}`: {{{key}}} is something else in arguments"),
            "call the setting otherwise",
        )),
    }
}

/// Whether a version is given in one way.
pub(super) fn check_version(version: Option<&str>, command: Option<&[String]>) -> Result<()> {
    match (version, command) {
        (Some(_), Some(_)) => Err(Error::input("`version` and `version_command` are both given")),
        _ => Ok(()),
    }
}

/// A longer run is taken for a mistake.
const MOST_SECONDS: f64 = 1e7;

pub(super) fn check_timeout(seconds: Option<f64>) -> Result<()> {
    match seconds {
        Some(t) if !(t > 0.0 && t <= MOST_SECONDS) => Err(Error::input(format!(
            "`timeout` is in seconds, above 0 and at most {MOST_SECONDS}"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Result<Vec<crate::spec::Point>> {
        toml::from_str::<Row>(text).unwrap().points()
    }

    #[test]
    fn rows_of_programs_say_which_and_others_do_not() {
        let own =
            "method = \"command\"\ntrain = [\"sh\", \"{lr}\", \"{out}\"]\nsettings = { lr = 1 }";
        assert_eq!(row(own).unwrap().len(), 1);
        let swept = own.replace("settings = { lr = 1 }", "sweep = { lr = [1, 2], steps = [3, 4] }");
        let points = row(&swept).unwrap();
        assert!(points.len() == 4 && points.iter().all(|p| p.state.is_none()));
        for (text, wanted) in [
            ("method = \"command\"", "without `train` and `sample`"),
            ("method = \"dreambooth\"\ntimeout = 3", "`timeout` is of programs"),
            ("method = \"command\"\ntrain = []", "`train`: it names no program"),
            ("method = \"command\"\ntrain = [\"x\", \"{seed}\"]", "no argument of `x` has {out}"),
            ("method = \"command\"\ntrain = [\"x\", \"{outt}\"]", "{outt}"),
            ("method = \"command\"\ntrain = [\"x\", \"{out}\", \"{prompts}\"]", "{prompts}"),
            ("method = \"command\"\nsample = [\"x\", \"{out}\"]", "{prompts}"),
            (&format!("{own}\ntimeout = 0.0"), "`timeout`"),
            (&format!("{own}\ntimeout = inf"), "`timeout`"),
            (&format!("{own}\nversion = \"1\"\nversion_command = [\"x\"]"), "both"),
            (&own.replace("lr = 1", "lr = 1, seed = 2"), "`settings.seed`"),
            (
                &format!(
                    "{own}\nsample = [\"x\", \"{{out}}{{prompts}}\"]\ncompress = {{ share = 0.5 }}"
                ),
                "`compress`",
            ),
        ] {
            let error = row(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}

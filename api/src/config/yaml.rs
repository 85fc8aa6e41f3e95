//! A YAML document whose every refusal carries its key and line.
//!
//! Owns the walk over the document, typed reading, and unknown keys. Must never know what a key means.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_norway::Value;

use super::error::ConfigError;

mod locate;

/// A parsed file.
pub(super) struct Document<'a> {
    file: &'static str,
    text: &'a str,
    value: Value,
}

/// One step from a container to its content.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// A refusal before it has its line.
#[derive(Debug)]
pub(super) struct Problem {
    path: Vec<Step>,
    message: String,
}

/// A value and the way to it.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    value: &'a Value,
    path: Vec<Step>,
}

/// The entries of a mapping; [`Fields::finish`] refuses those that nobody asked for.
pub(super) struct Fields<'a> {
    node: Node<'a>,
    entries: Vec<(&'a str, &'a Value)>,
    known: Vec<&'static str>,
}

impl<'a> Document<'a> {
    /// Reads the text as one YAML document.
    pub(super) fn parse(file: &'static str, text: &'a str) -> Result<Self, ConfigError> {
        let value = serde_norway::from_str(text).map_err(|error| {
            let line = error.location().map(|location| location.line());
            let said = error.to_string();
            let problem = format!("not valid YAML: {}", said.split(" at line ").next().unwrap_or(&said));
            ConfigError { file: file.to_owned(), line, key: String::new(), problem }
        })?;
        Ok(Self { file, text, value })
    }

    /// The root mapping; none for an empty file.
    pub(super) fn root(&self) -> Option<Node<'_>> {
        let root = Node { value: &self.value, path: Vec::new() };
        Some(root).filter(|root| !root.value.is_null())
    }

    /// Gives a refusal its file and line.
    pub(super) fn error(&self, problem: Problem) -> ConfigError {
        ConfigError {
            file: self.file.to_owned(),
            line: locate::line(self.text, &problem.path),
            key: spell(&problem.path),
            problem: problem.message,
        }
    }
}

impl<'a> Node<'a> {
    /// Refuses this value.
    pub(super) fn refuse(&self, message: impl Into<String>) -> Problem {
        Problem { path: self.path.clone(), message: message.into() }
    }

    /// The value as a user would recognise it.
    pub(super) fn shown(&self) -> String {
        match self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Number(value) => value.to_string(),
            Value::String(value) => format!("{value:?}"),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) | Value::Tagged(_) => "a mapping".to_owned(),
        }
    }

    fn expected(&self, what: &str) -> Problem {
        self.refuse(format!("{} is not {what}", self.shown()))
    }

    fn child(&self, step: Step, value: &'a Value) -> Self {
        let mut path = self.path.clone();
        path.push(step);
        Self { value, path }
    }

    /// The entries of a mapping.
    pub(super) fn fields(&self) -> Result<Fields<'a>, Problem> {
        let Value::Mapping(mapping) = self.value else {
            return Err(self.expected("a mapping of keys to values"));
        };
        let mut entries = Vec::with_capacity(mapping.len());
        for (key, value) in mapping {
            let key = key.as_str().ok_or_else(|| self.refuse("a key is not text"))?;
            entries.push((key, value));
        }
        Ok(Fields { node: self.clone(), entries, known: Vec::new() })
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Result<Vec<Self>, Problem> {
        let Value::Sequence(items) = self.value else { return Err(self.expected("a list")) };
        Ok(items.iter().enumerate().map(|(index, item)| self.child(Step::Index(index), item)).collect())
    }

    /// Is it a mapping.
    pub(super) fn is_mapping(&self) -> bool {
        self.value.is_mapping()
    }

    /// Text.
    pub(super) fn string(&self) -> Result<&'a str, Problem> {
        self.value.as_str().ok_or_else(|| self.expected("text"))
    }

    /// A number without sign or fraction.
    pub(super) fn unsigned(&self) -> Option<u64> {
        self.value.as_u64()
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, Problem> {
        self.value.as_bool().ok_or_else(|| self.refuse(format!("{} is neither true nor false", self.shown())))
    }

    /// One of the words; `true` and `false` count as words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, Problem> {
        let word = match self.value {
            Value::Bool(value) => Some(if *value { "true" } else { "false" }),
            value => value.as_str(),
        };
        if let Some((_, choice)) = choices.iter().find(|(name, _)| Some(*name) == word) {
            return Ok(*choice);
        }
        let words: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        Err(self.refuse(format!("{} is unknown; use {}", self.shown(), words.join(" or "))))
    }

    /// A whole number between the two, both included.
    pub(super) fn within(&self, least: u64, most: u64) -> Result<u64, Problem> {
        let fits = self.unsigned().filter(|number| (least..=most).contains(number));
        fits.ok_or_else(|| self.refuse(format!("{} is out of range; use {least} to {most}", self.shown())))
    }

    /// Whole seconds between the two, both included.
    pub(super) fn seconds(&self, least: u64, most: u64) -> Result<Duration, Problem> {
        match self.unsigned() {
            Some(seconds) if (least..=most).contains(&seconds) => Ok(Duration::from_secs(seconds)),
            _ => Err(self.refuse(format!("{} is out of range; use {least} to {most} seconds", self.shown()))),
        }
    }

    /// A TCP port.
    pub(super) fn port(&self) -> Result<u16, Problem> {
        let port = self.unsigned().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        port.ok_or_else(|| self.refuse(format!("{} is not a port; use 1 to 65535", self.shown())))
    }

    /// An IP address.
    pub(super) fn address(&self) -> Result<IpAddr, Problem> {
        let address = self.value.as_str().and_then(|text| text.parse().ok());
        address.ok_or_else(|| {
            self.refuse(format!("{} is not an IP address; use one such as 0.0.0.0 or \"::\"", self.shown()))
        })
    }

    /// An absolute path.
    pub(super) fn directory(&self) -> Result<PathBuf, Problem> {
        let text = self.string()?;
        let absolute = text.starts_with('/') && !text.contains('\0');
        if absolute { Ok(text.into()) } else { Err(self.refuse(format!("{text:?} is not an absolute path"))) }
    }

    /// Text that a type accepts; the type's error says what would be right.
    pub(super) fn parsed<T>(&self) -> Result<T, Problem>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        self.string()?.parse().map_err(|error: T::Err| self.refuse(error.to_string()))
    }
}

impl Node<'_> {
    /// What a type makes of everything below; its error names the key that is wrong.
    pub(super) fn deserialized<T: serde::de::DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_path_to_error::deserialize(self.value.clone())
            .map_err(|error| self.refuse(format!("{}: {}", error.path(), error.inner())))
    }
}

impl<'a> Fields<'a> {
    /// Reads a key when it is there; `null` counts as absent.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Node<'a>) -> Result<T, Problem>,
    ) -> Result<Option<T>, Problem> {
        self.known.push(key);
        let Some(&(_, value)) = self.entries.iter().find(|(name, _)| *name == key) else { return Ok(None) };
        if value.is_null() {
            return Ok(None);
        }
        read(self.node.child(Step::Key(key.to_owned()), value)).map(Some)
    }

    /// Reads a key into its place when it is there.
    pub(super) fn set<T>(
        &mut self,
        key: &'static str,
        place: &mut T,
        read: impl FnOnce(&Node<'a>) -> Result<T, Problem>,
    ) -> Result<(), Problem> {
        if let Some(value) = self.take(key, |node| read(&node))? {
            *place = value;
        }
        Ok(())
    }

    /// Reads a key that must be there.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Node<'a>) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let missing = self.node.refuse(format!("{key} is missing"));
        self.take(key, |node| read(&node))?.ok_or(missing)
    }

    /// Refuses the first key that nobody asked for.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.entries.iter().find(|(name, _)| !self.known.contains(name)) {
            None => Ok(()),
            Some((name, value)) => {
                let node = self.node.child(Step::Key((*name).to_owned()), value);
                Err(node.refuse(format!("unknown key; known here: {}", self.known.join(", "))))
            }
        }
    }
}

fn spell(path: &[Step]) -> String {
    let mut spelled = String::new();
    for step in path {
        match step {
            Step::Key(key) if spelled.is_empty() => spelled.push_str(key),
            Step::Key(key) => {
                spelled.push('.');
                spelled.push_str(key);
            }
            Step::Index(index) => write!(spelled, "[{index}]").expect("writing to a String cannot fail"),
        }
    }
    spelled
}

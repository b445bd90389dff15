//! The explanation as values, in JSON as it is printed with `-o json`.

use serde::{Deserialize, Serialize};

/// Why a decision came out as it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// `allow` or `deny`.
    pub verdict: String,
    /// The decision's stable label.
    pub reason: String,
    /// The `@id`s of the policies that made it.
    pub rules: Vec<String>,
    /// Shadow policies that would have turned it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadow: Vec<String>,
    /// The service that was called.
    pub service: String,
    /// The peer's SPIFFE ID, or `plaintext`.
    pub peer: String,
    /// The groups that the peer is in.
    pub groups: Vec<String>,
    /// The action: a declared route, or a method.
    pub action: String,
    /// The declared route that the path matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The policies whose scope fits: forbids, permits, then those in shadow.
    pub considered: Vec<Judged>,
    /// How many more were considered than are told here.
    #[serde(default)]
    pub more: usize,
    /// Permits whose scope missed, the nearest first; not all of a large set.
    pub missed: Vec<Miss>,
    /// On a denial that no policy made: the permit that was nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<Nearest>,
    /// What to do, in words.
    pub hint: String,
    /// The policies that it was explained with.
    pub policy_version: String,
}

/// One policy whose scope fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Its `@id`.
    pub id: String,
    /// What it does when it applies.
    pub effect: Effect,
    /// Whether it is only watched.
    #[serde(default)]
    pub shadow: bool,
    /// The file that it stands in.
    pub file: String,
    /// And the line, from 1.
    pub line: usize,
    /// Its `@reason`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it applies.
    pub state: State,
    /// Its clauses; none: the scope is all of it.
    pub clauses: Vec<Clause>,
}

/// What a policy does when it applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It permits.
    Permit,
    /// It forbids.
    Forbid,
}

/// How an expression came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It could not be evaluated.
    Error,
    /// It needs what stands before it, and that does not hold.
    NotReached,
}

/// The word before a clause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// The policy applies when it holds.
    When,
    /// The policy applies unless it holds.
    Unless,
    /// The policy as a whole, which could not be taken apart.
    Policy,
}

/// One clause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clause {
    /// The word before it.
    pub word: Word,
    /// The source between its braces, in one line.
    pub text: String,
    /// How that came out; for `unless`, the policy applies when it is false.
    pub state: State,
    /// Its parts, cut at `&&`; at least one.
    pub parts: Vec<Part>,
}

/// A part of a clause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its source, in one line.
    pub text: String,
    /// How it came out.
    pub state: State,
    /// What it needs, and what was there instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A permit whose scope missed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Miss {
    /// Its `@id`.
    pub id: String,
    /// The file that it stands in.
    pub file: String,
    /// And the line, from 1.
    pub line: usize,
    /// Its `@reason`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which of `principal`, `action` and `resource` missed, as they are written.
    pub parts: Vec<Part>,
}

/// The permit that was nearest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nearest {
    /// Its `@id`.
    pub rule: String,
    /// The file that it stands in.
    pub file: String,
    /// And the line, from 1.
    pub line: usize,
    /// Its `@reason`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether caller, action and service fit it; only its conditions were in the way then.
    pub scope_matched: bool,
    /// What it needed, and what was there instead; a sentence each.
    pub needs: Vec<String>,
}

impl Clause {
    /// A policy that could not be taken apart.
    pub(super) fn whole(text: &str, state: State) -> Self {
        Self {
            word: Word::Policy,
            text: text.to_owned(),
            state,
            parts: vec![Part {
                text: text.to_owned(),
                state,
                note: None,
            }],
        }
    }

    /// Whether it lets its policy apply.
    pub(super) fn applies(&self) -> bool {
        match self.word {
            Word::When | Word::Policy => self.state == State::True,
            Word::Unless => self.state == State::False,
        }
    }

    /// What is in the way of its policy, a sentence each.
    pub(super) fn needs(&self) -> Vec<String> {
        if self.applies() {
            return Vec::new();
        }
        if self.word == Word::Unless && self.state == State::True {
            return vec![format!("needs that this does not hold: {}", self.text)];
        }
        let failing = self
            .parts
            .iter()
            .filter(|part| matches!(part.state, State::False | State::Error));
        failing
            .map(|part| {
                part.note
                    .clone()
                    .unwrap_or_else(|| format!("needs {}", part.text))
            })
            .collect()
    }
}

impl Miss {
    /// As the nearest permit.
    pub(super) fn nearest(&self) -> Nearest {
        Nearest {
            rule: self.id.clone(),
            file: self.file.clone(),
            line: self.line,
            reason: self.reason.clone(),
            scope_matched: false,
            needs: self
                .parts
                .iter()
                .map(|part| {
                    let note = part.note.as_ref().map(|note| format!("; {note}"));
                    format!("needs {}{}", part.text, note.unwrap_or_default())
                })
                .collect(),
        }
    }
}

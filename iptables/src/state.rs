//! The text that `iptables-save` prints enters, tables with their chains and rules leave. It judges nothing, but refuses
//! what it does not understand, and what iptables itself says it cannot see.

use std::collections::BTreeSet;

use crate::rules::{ALL, Own, Table};

/// What is in place for one family, as far as hopguard looks at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// In the order printed.
    pub tables: Vec<SavedTable>,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedTable {
    /// `nat`, `filter`, ...
    pub name: String,
    /// In the order printed.
    pub chains: Vec<SavedChain>,
}

/// One chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedChain {
    /// Its name.
    pub name: String,
    /// The policy of a built-in chain; `-` for others.
    pub policy: String,
    /// Its rules as printed, without `-A CHAIN `.
    pub rules: Vec<String>,
}

/// The printed rules cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSave {
    /// A line that is none of those that `iptables-save` prints.
    #[error("line {line} is not understood: `{text}`")]
    Line {
        /// From 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// Rules made by `nft` itself, which iptables can neither show nor keep apart from its own.
    #[error("the table `{table}` holds rules that iptables cannot read (made with `nft`)")]
    Foreign {
        /// Its name.
        table: String,
    },
}

impl Ruleset {
    /// Reads what `iptables-save` printed.
    ///
    /// # Errors
    /// The first line that is not understood.
    pub fn parse(text: &str) -> Result<Self, BadSave> {
        let mut tables: Vec<SavedTable> = Vec::new();
        let mut open = false;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            let bad = || BadSave::Line {
                line: index.saturating_add(1),
                text: line.chars().take(200).collect(),
            };
            if let Some(comment) = line.strip_prefix('#') {
                refuse_foreign(comment)?;
            } else if let Some(name) = line.strip_prefix('*') {
                if open {
                    return Err(bad());
                }
                tables.push(SavedTable {
                    name: name.to_owned(),
                    chains: Vec::new(),
                });
                open = true;
            } else if line == "COMMIT" && open {
                open = false;
            } else if !line.is_empty() {
                let table = tables.last_mut().filter(|_| open).ok_or_else(bad)?;
                table.read(line).ok_or_else(bad)?;
            }
        }
        if open {
            return Err(BadSave::Line {
                line: text.lines().count(),
                text: "the end, before COMMIT".to_owned(),
            });
        }
        Ok(Self { tables })
    }

    /// One table, when it exists.
    pub fn table(&self, table: Table) -> Option<&SavedTable> {
        self.tables.iter().find(|saved| saved.name == table.name())
    }

    /// One chain, when it exists.
    pub fn chain(&self, table: Table, chain: &str) -> Option<&SavedChain> {
        self.table(table)?.chains.iter().find(|saved| saved.name == chain)
    }

    /// Our chains that exist.
    pub fn own(&self) -> impl Iterator<Item = (Own, &SavedChain)> {
        ALL.into_iter()
            .filter_map(|own| Some((own, self.chain(own.table, own.chain)?)))
    }
}

/// What iptables-nft says of a table it cannot show: "Table `nat' is incompatible, use 'nft' tool."
fn refuse_foreign(comment: &str) -> Result<(), BadSave> {
    let Some((_, rest)) = comment.split_once("able `") else {
        return Ok(());
    };
    let Some((table, rest)) = rest.split_once('\'') else {
        return Ok(());
    };
    let ours = Table::ALL.iter().any(|own| own.name() == table);
    if ours && rest.contains("incompatible") {
        return Err(BadSave::Foreign {
            table: table.to_owned(),
        });
    }
    Ok(())
}

impl SavedTable {
    fn read(&mut self, line: &str) -> Option<()> {
        if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split_whitespace();
            let (name, policy) = (words.next()?, words.next()?);
            self.chains.push(SavedChain {
                name: name.to_owned(),
                policy: policy.to_owned(),
                rules: Vec::new(),
            });
            return Some(());
        }
        // With counters (`iptables-save -c`) a rule begins with `[packets:bytes] `.
        let line = line
            .strip_prefix('[')
            .map_or(Some(line), |rest| rest.split_once("] ").map(|(_, rule)| rule))?;
        let rest = line.strip_prefix("-A ")?;
        let (name, rule) = rest.split_once(' ').unwrap_or((rest, ""));
        let chain = self.chains.iter_mut().find(|chain| chain.name == name)?;
        chain.rules.push(rule.to_owned());
        Some(())
    }
}

/// The chain that a printed rule jumps or goes to.
pub fn target(rule: &str) -> Option<String> {
    let words = words(rule);
    words
        .iter()
        .zip(words.iter().skip(1))
        .rev()
        .find(|(flag, _)| matches!(flag.as_str(), "-j" | "-g"))
        .map(|(_, t)| t.clone())
}

/// A rule in one spelling, whatever version of iptables printed it: its conditions sorted, numbers decimal, single addresses
/// without a prefix length, and the match that a protocol implies left out.
pub fn canonical(rule: &str) -> BTreeSet<String> {
    let mut clauses = BTreeSet::new();
    let mut clause: Vec<String> = Vec::new();
    let mut close = |clause: &mut Vec<String>| {
        let text = canonical_clause(std::mem::take(clause));
        if !text.is_empty() {
            clauses.insert(text);
        }
    };
    for word in words(rule) {
        let begins = word == "!" || word.starts_with('-');
        // `! -o lo` and `-o ! lo` are one condition: a `!` after its flag stays in the clause.
        let negated_value =
            word == "!" && clause.len() == 1 && clause.first().is_some_and(|first| first != "!");
        let after_negation = clause.len() == 1 && clause.first().is_some_and(|first| first == "!");
        if begins && !negated_value && !after_negation {
            close(&mut clause);
        }
        clause.push(word);
    }
    close(&mut clause);
    clauses
}

fn canonical_clause(words: Vec<String>) -> String {
    let negated = words.iter().any(|word| word == "!");
    let mut words = words.into_iter().filter(|word| word != "!");
    let Some(flag) = words.next() else {
        return String::new();
    };
    let flag = match flag.as_str() {
        "--to-port" => "--to-ports",
        "--protocol" => "-p",
        "--jump" => "-j",
        "--destination" => "-d",
        "--source" => "-s",
        other => other,
    };
    let values: Vec<String> = words.map(|value| canonical_value(flag, &value)).collect();
    // `-p tcp --dport 80` and `-p tcp -m tcp --dport 80` are one rule.
    if flag == "-m" && values.iter().all(|value| matches!(value.as_str(), "tcp" | "udp")) {
        return String::new();
    }
    let not = if negated { "! " } else { "" };
    format!("{not}{flag} {}", values.join(" ")).trim_end().to_owned()
}

fn canonical_value(flag: &str, value: &str) -> String {
    match flag {
        "-s" | "-d" => {
            let full = value.strip_suffix("/32").filter(|address| address.contains('.'));
            let full = full.or_else(|| value.strip_suffix("/128"));
            full.or_else(|| value.strip_suffix("/255.255.255.255"))
                .unwrap_or(value)
                .to_owned()
        }
        "-p" => match value {
            "6" => "tcp".to_owned(),
            "17" => "udp".to_owned(),
            other => other.to_owned(),
        },
        "--mark" => {
            let (mark, mask) = value.split_once('/').unwrap_or((value, "0xffffffff"));
            match (number(mark), number(mask)) {
                (Some(mark), Some(u32::MAX)) => mark.to_string(),
                (Some(mark), Some(mask)) => format!("{mark}/{mask}"),
                _ => value.to_owned(),
            }
        }
        "--ctstate" | "--dst-type" => {
            let mut states: Vec<&str> = value.split(',').collect();
            states.sort_unstable();
            states.join(",")
        }
        _ => value.to_owned(),
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The words of a printed rule; quoted ones (comments) are one word.
fn words(rule: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = rule.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                // A quoted word never begins a clause, whatever it says.
                word.get_or_insert_with(|| "\"".to_owned());
            }
            '\\' if quoted => word.get_or_insert_default().extend(chars.next()),
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "# Generated by iptables-save v1.8.9 (nf_tables) on Tue Nov 24 07:59:11 2026
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [12:720]
:HOPGUARD_OUTPUT - [0:0]
-A OUTPUT -p tcp -j HOPGUARD_OUTPUT
[3:180] -A HOPGUARD_OUTPUT -m mark --mark 0x539 -j RETURN
-A HOPGUARD_OUTPUT -m comment --comment \"-A \\\"odd\\\" -j DROP\" -j RETURN
COMMIT
# Completed on Tue Nov 24 07:59:11 2026
";

    #[test]
    fn what_iptables_prints_is_read() {
        let saved = Ruleset::parse(SAVED).unwrap();
        let chain = saved.chain(Table::Nat, "HOPGUARD_OUTPUT").unwrap();
        assert_eq!(chain.rules.len(), 2);
        assert_eq!(chain.rules[0], "-m mark --mark 0x539 -j RETURN");
        assert_eq!(saved.chain(Table::Nat, "OUTPUT").unwrap().policy, "ACCEPT");
        assert_eq!(saved.table(Table::Filter), None);
        assert_eq!(saved.own().count(), 1);
        assert_eq!(Ruleset::parse("").unwrap(), Ruleset::default());
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for bad in [
            "-A OUTPUT -j DROP\n",
            "*nat\n-A NOWHERE -j DROP\nCOMMIT\n",
            "*nat\n:OUTPUT ACCEPT [0:0]\n",
            "*nat\nhello\nCOMMIT\n",
            "*nat\n*filter\nCOMMIT\n",
            "iptables-save: permission denied\n",
        ] {
            assert!(matches!(Ruleset::parse(bad), Err(BadSave::Line { .. })), "{bad}");
        }
    }

    #[test]
    fn a_table_that_iptables_cannot_show_is_an_error() {
        let text = "# Table `nat' is incompatible, use 'nft' tool.\n";
        assert_eq!(
            Ruleset::parse(text),
            Err(BadSave::Foreign {
                table: "nat".to_owned()
            })
        );
        assert!(Ruleset::parse("# Table `bridge' is incompatible, use 'nft' tool.\n").is_ok());
    }

    #[test]
    fn the_target_is_the_one_that_acts() {
        assert_eq!(
            target("-p tcp -j HOPGUARD_OUTPUT").as_deref(),
            Some("HOPGUARD_OUTPUT")
        );
        assert_eq!(
            target("-p tcp -g HOPGUARD_OUTPUT").as_deref(),
            Some("HOPGUARD_OUTPUT")
        );
        assert_eq!(
            target("-j REDIRECT --to-ports 15001").as_deref(),
            Some("REDIRECT")
        );
        assert_eq!(
            target("-m comment --comment \"x -j HOPGUARD_OUTPUT\" -j LOG").as_deref(),
            Some("LOG")
        );
        assert_eq!(target("-m comment --comment \"no target\""), None);
    }

    #[test]
    fn spellings_of_one_rule_are_one() {
        for (one, other) in [
            (
                "-p tcp --dport 80 -j RETURN",
                "-p tcp -m tcp --dport 80 -j RETURN",
            ),
            ("-p 6 -j REDIRECT --to-port 1", "-p tcp -j REDIRECT --to-ports 1"),
            (
                "-m mark --mark 1337 -j RETURN",
                "-m mark --mark 0x539/0xffffffff -j RETURN",
            ),
            ("! -o lo -p tcp -j DROP", "-p tcp -o ! lo -j DROP"),
            ("-d 127.0.0.1/32 -j RETURN", "-d 127.0.0.1 -j RETURN"),
            ("-d ::1/128 -j RETURN", "-d ::1 -j RETURN"),
            (
                "-m conntrack --ctstate NEW,INVALID -j DROP",
                "-m conntrack --ctstate INVALID,NEW -j DROP",
            ),
        ] {
            assert_eq!(canonical(one), canonical(other), "{one} | {other}");
        }
        for (one, other) in [
            (
                "-m conntrack --ctstate NEW -j DROP",
                "-m conntrack ! --ctstate NEW -j DROP",
            ),
            ("-p tcp -j RETURN", "-p udp -j RETURN"),
            (
                "-m mark --mark 0x539 -j RETURN",
                "-m mark --mark 0x539/0xff -j RETURN",
            ),
            ("-d 10.0.0.0/8 -j RETURN", "-d 10.0.0.0/16 -j RETURN"),
            ("-j RETURN", "-j DROP"),
            ("-j RETURN", "-m comment --comment \"-j RETURN\""),
            ("-j X", "-g X"),
            ("-p tcp -j RETURN", "-j RETURN"),
        ] {
            assert_ne!(canonical(one), canonical(other), "{one} | {other}");
        }
    }
}

//! Loading: policy files as text enter, a set that can be trusted leaves, or every reason why not. Nothing is loaded in
//! part: one problem refuses the set, and the caller keeps the one it has.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use cedar_policy::{
    Effect, Entities, Expression, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator,
};
use miette::Diagnostic;

use super::check::{Placed, check, fits};
use super::decide::{Action, Actions, Kept, Policies, Set};
use super::entities::Maker;
use super::expr::Reads;
use super::index::{ActionKey, Audit, Index, Rule};
use super::model::{Model, PolicyError};
use super::problem::{PolicyProblem, Problems, Span};
use super::scan::Scan;
use super::world::{METHODS, World};
use super::schema;

/// The largest file, all files together, and the most policies.
const MAX_FILE: usize = 1 << 20;
const MAX_ALL: usize = 16 << 20;
const MAX_POLICIES: usize = 100_000;
/// How deep an expression may nest, operators of a chain included: Cedar parses, validates and evaluates recursively,
/// the last on the stack of a data worker, where a frame of a debug build takes some 20 KiB.
pub(super) const MAX_DEPTH: usize = 64;
/// Stack for parsing and validating sets that keep to `MAX_DEPTH`, with much to spare.
const STACK: usize = 64 << 20;

/// Loads a policy folder for one service.
///
/// # Errors
/// Every problem found, sorted by file and place; at most 200.
pub fn load(model: &Model, files: &[(PathBuf, String)], service: &str) -> Result<Policies, Vec<PolicyProblem>> {
    let work = || {
        let mut problems = Problems::default();
        match build(model, files, service, &mut problems) {
            Some(policies) if problems.is_empty() => Ok(policies),
            _ => Err(problems.sorted()),
        }
    };
    let broken = |message: &str| {
        let mut problems = Problems::default();
        problems.whole(PathBuf::new(), message, None);
        problems.sorted()
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("policy-load".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, work)
            .map_err(|error| broken(&format!("no thread to load policies on: {error}")))?
            .join()
            .unwrap_or_else(|_| Err(broken("loading policies failed inside hopguard; nothing was loaded")))
    })
}

/// One policy and where it stands.
struct Parsed {
    file: usize,
    span: Span,
    policy: Policy,
    reads: Reads,
}

/// All files, read.
struct Source<'f> {
    files: &'f [(PathBuf, String)],
    scans: Vec<Scan<'f>>,
}

impl<'f> Source<'f> {
    fn file(&self, at: usize) -> Option<(&'f PathBuf, &'f str)> {
        self.files.get(at).map(|(path, text)| (path, text.as_str()))
    }

    fn problem(&self, problems: &mut Problems, file: usize, span: Span, what: (String, Option<String>)) {
        match self.file(file) {
            Some(file) => problems.at(file, span, what.0, what.1),
            None => problems.whole(PathBuf::new(), what.0, what.1.as_deref()),
        }
    }
}

fn build(model: &Model, files: &[(PathBuf, String)], service: &str, problems: &mut Problems) -> Option<Policies> {
    if !small_enough(files, problems) {
        return None;
    }
    let (world, schema_text, schema) = match mesh(model, service) {
        Ok(mesh) => mesh,
        Err(error) => {
            problems.whole(PathBuf::new(), error.to_string(), Some("correct the mesh file"));
            return None;
        }
    };
    let source = Source {
        files,
        scans: files.iter().map(|(_, text)| Scan::new(text)).collect(),
    };
    let parsed = parse_all(&source, problems);
    let set = named(&source, parsed, problems);
    for parsed in set.values() {
        let Some(scan) = source.scans.get(parsed.file) else { continue };
        let placed = Placed { policy: &parsed.policy, reads: &parsed.reads, scan, span: parsed.span };
        for (span, message, hint) in check(&world, &placed) {
            source.problem(problems, parsed.file, span, (message, hint));
        }
    }
    validate(&source, &schema, &set, problems);
    if !problems.is_empty() {
        return None;
    }
    let version = version(&schema_text, files);
    let count = set.len();
    match finish(world, &schema, &source, set, service) {
        Ok(set) => Some(Policies::new(version, count, set)),
        Err(error) => {
            problems.whole(PathBuf::new(), error.to_string(), None);
            None
        }
    }
}

fn small_enough(files: &[(PathBuf, String)], problems: &mut Problems) -> bool {
    for (path, text) in files {
        if text.len() > MAX_FILE {
            problems.whole(path.clone(), format!("the file has more than {MAX_FILE} bytes"), Some("split it"));
        }
    }
    if files.iter().map(|(_, text)| text.len()).sum::<usize>() > MAX_ALL {
        problems.whole(PathBuf::new(), format!("the policy files together have more than {MAX_ALL} bytes"), None);
    }
    problems.is_empty()
}

/// The mesh, its schema as text and as Cedar's value.
fn mesh(model: &Model, service: &str) -> Result<(World, String, Schema), PolicyError> {
    let world = World::new(model)?;
    if !world.services.contains_key(service) {
        return Err(PolicyError::UnknownService { name: service.to_owned() });
    }
    let text = schema::text(&world);
    let (schema, warnings) =
        Schema::from_cedarschema_str(&text).map_err(|e| PolicyError::Schema { detail: e.to_string() })?;
    match warnings.map(|w| w.to_string()).next() {
        Some(detail) => Err(PolicyError::Schema { detail }),
        None => Ok((world, text, schema)),
    }
}

/// Parses every file that is not too deep.
fn parse_all(source: &Source<'_>, problems: &mut Problems) -> Vec<Parsed> {
    let mut all = Vec::new();
    for (at, ((_, text), scan)) in source.files.iter().zip(&source.scans).enumerate() {
        if let Some(span) = scan.deeper_than(MAX_DEPTH) {
            let message = format!("an expression nests deeper than {MAX_DEPTH} here");
            let hint = "use a set (`[..].contains(..)`) or several policies";
            source.problem(problems, at, span, (message, Some(hint.to_owned())));
            continue;
        }
        let set = match PolicySet::from_str(text) {
            Ok(set) => set,
            Err(errors) => {
                for error in errors.iter() {
                    let (span, what) = said(error, None);
                    source.problem(problems, at, span.unwrap_or_default(), what);
                }
                continue;
            }
        };
        for template in set.templates() {
            let span = template.as_ref().loc().map(|l| Span { start: l.start(), end: l.end() });
            let hint = "write the entity itself";
            let message = "a template (`?principal`, `?resource`) cannot be loaded".to_owned();
            source.problem(problems, at, span.unwrap_or_default(), (message, Some(hint.to_owned())));
        }
        for policy in set.policies() {
            let span = policy.as_ref().loc().map(|l| Span { start: l.start(), end: l.end() }).unwrap_or_default();
            match policy.to_pst() {
                Ok(pst) => all.push(Parsed { file: at, span, policy: policy.clone(), reads: Reads::of(&pst) }),
                Err(error) => source.problem(problems, at, span, (error.to_string(), None)),
            }
        }
        if all.len() > MAX_POLICIES {
            problems.whole(PathBuf::new(), format!("there are more than {MAX_POLICIES} policies"), None);
            return Vec::new();
        }
    }
    all.sort_by_key(|parsed| (parsed.file, parsed.span));
    all
}

/// The policies by their `@id`, which each must have for itself.
fn named(source: &Source<'_>, parsed: Vec<Parsed>, problems: &mut Problems) -> std::collections::BTreeMap<String, Parsed> {
    let mut set = std::collections::BTreeMap::<String, Parsed>::new();
    for parsed in parsed {
        let problem = match parsed.policy.annotation("id") {
            None => Some(("this policy has no `@id`".to_owned(), "write `@id(\"a-name\")` before it: logs and explanations name policies by it".to_owned())),
            Some(id) if !is_id(id) => Some((
                format!("`@id(\"{}\")` is not a name", id.escape_debug()),
                "letters, digits and `-_.:/`, at most 128".to_owned(),
            )),
            Some(id) => set.get(id).map(|first| {
                let place = source.file(first.file).map(|(path, text)| {
                    let line = text.get(..first.span.start).unwrap_or_default().matches('\n').count() + 1;
                    format!("{}:{line}", path.display())
                });
                (format!("`@id(\"{id}\")` is there twice"), format!("the first is at {}", place.unwrap_or_default()))
            }),
        };
        match (problem, parsed.policy.annotation("id")) {
            (Some((message, hint)), _) => source.problem(problems, parsed.file, parsed.span, (message, Some(hint))),
            (None, Some(id)) => {
                let id = id.to_owned();
                let policy = parsed.policy.new_id(PolicyId::new(&id));
                set.insert(id, Parsed { policy, ..parsed });
            }
            (None, None) => {}
        }
    }
    set
}

fn is_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:/".contains(c))
}

/// Cedar's strict validation, its warnings included.
fn validate(
    source: &Source<'_>,
    schema: &Schema,
    set: &std::collections::BTreeMap<String, Parsed>,
    problems: &mut Problems,
) {
    let all = match PolicySet::from_policies(set.values().map(|parsed| parsed.policy.clone())) {
        Ok(all) => all,
        Err(error) => return problems.whole(PathBuf::new(), error.to_string(), None),
    };
    let result = Validator::new(schema.clone()).validate(&all, ValidationMode::Strict);
    let mut report = |id: &PolicyId, found: &dyn Diagnostic| {
        let id: &str = id.as_ref();
        let Some(parsed) = set.get(id) else {
            return problems.whole(PathBuf::new(), found.to_string(), None);
        };
        let (span, what) = said(found, Some(id));
        source.problem(problems, parsed.file, span.unwrap_or(parsed.span), what);
    };
    for error in result.validation_errors() {
        report(error.policy_id(), error);
    }
    for warning in result.validation_warnings() {
        report(warning.policy_id(), warning);
    }
}

/// What Cedar says, and where.
fn said(found: &dyn Diagnostic, id: Option<&str>) -> (Option<Span>, (String, Option<String>)) {
    let label = found.labels().and_then(|mut labels| labels.next());
    let span = label.as_ref().map(|label| Span {
        start: label.offset(),
        end: label.offset() + label.len(),
    });
    let mut message = found.to_string();
    if let Some(id) = id {
        message = message.replace(&format!("for policy `{id}`, "), "");
    }
    let hint = found.help().map(|help| help.to_string());
    let hint = hint.or_else(|| label.and_then(|l| l.label().map(str::to_owned)));
    (span, (message, hint))
}

/// Everything that a decision needs, of the policies that can concern the own service.
fn finish(
    world: World,
    schema: &Schema,
    source: &Source<'_>,
    set: std::collections::BTreeMap<String, Parsed>,
    service: &str,
) -> Result<Set, PolicyError> {
    let unknown = || PolicyError::UnknownService { name: service.to_owned() };
    let own = world.services.get(service).ok_or_else(unknown)?;
    let mut rules = Vec::new();
    for (id, parsed) in set {
        if fits(&parsed.policy.resource_constraint(), &world, service, own) {
            let rule = rule(id, &parsed, source);
            rules.push((parsed.policy, rule));
        }
    }
    let maker = Maker::new(&world)?;
    let actions = actions(&world, schema, &maker, service)?;
    Ok(Set {
        service: maker.service(&world, service, &own.namespace),
        maker,
        actions,
        index: Index::new(rules),
        kept: ArcSwap::from_pointee(Kept::default()),
        world,
    })
}

fn rule(id: String, parsed: &Parsed, source: &Source<'_>) -> Rule {
    let policy = &parsed.policy;
    Rule {
        id: id.into(),
        effect: policy.effect(),
        shadow: policy.annotation("mode").is_some(),
        audit: match policy.annotation("audit") {
            Some("always") => Audit::Always,
            Some(_) => Audit::Deny,
            None => Audit::No,
        },
        condition: Expression::from(policy.as_ref().condition()),
        uses: parsed.reads.uses,
        user: parsed.reads.user,
        asks: asks(parsed, source),
    }
}

/// What a permit asks for, as a denial tells it: by its conditions, and by its scope.
fn asks(parsed: &Parsed, source: &Source<'_>) -> [Arc<str>; 2] {
    if parsed.policy.effect() == Effect::Forbid {
        return ["".into(), "".into()];
    }
    if let Some(reason) = parsed.policy.annotation("reason") {
        return [reason.into(), reason.into()];
    }
    let (Some((_, text)), Some(scan)) = (source.file(parsed.file), source.scans.get(parsed.file)) else {
        return ["".into(), "".into()];
    };
    let Span { start, end } = parsed.span;
    let scope = scan.find(parsed.span, "permit").map_or(start, |span| span.start);
    let first = ["when", "unless"].iter().filter_map(|word| scan.find(parsed.span, word)).min();
    let conditions = first.map_or(end, |span| span.start);
    let scope = one_line(text.get(scope..conditions).unwrap_or_default());
    let conditions = one_line(text.get(conditions..end).unwrap_or_default());
    [if conditions.is_empty() { scope.clone() } else { conditions }, scope]
}

/// Source in one line of at most 300 characters, without the closing `;`.
fn one_line(source: &str) -> Arc<str> {
    let words: Vec<&str> = source
        .lines()
        .map(|line| line.split_once("//").map_or(line, |(code, _)| if code.matches('"').count() % 2 == 0 { code } else { line }))
        .flat_map(str::split_whitespace)
        .collect();
    let line = words.join(" ");
    let line = line.trim_end_matches(';').trim_end();
    if line.chars().count() <= 300 {
        return line.into();
    }
    let cut: String = line.chars().take(299).collect();
    format!("{cut}…").into()
}

fn actions(world: &World, schema: &Schema, maker: &Maker, service: &str) -> Result<Actions, PolicyError> {
    let fail = |detail: String| PolicyError::Schema { detail };
    let entities = schema.action_entities().map_err(|e| fail(e.to_string()))?;
    let mut actions = Actions::default();
    for name in METHODS.iter().map(|(method, _)| *method).chain(["connect"]) {
        actions.bare.insert(name, actions.all.len());
        actions.all.push(action(&entities, maker, name).ok_or_else(|| fail(format!("no action `{name}`")))?);
    }
    for route in world.services.get(service).into_iter().flat_map(|s| &s.routes) {
        for method in &route.methods {
            let missing = || fail(format!("no action `{}`", method.action));
            let mut action = action(&entities, maker, &method.action).ok_or_else(missing)?;
            action.route = Some((route.action.as_str().into(), route.template.params().map(str::to_owned).collect()));
            actions.router.add(&method.method, &route.template, actions.all.len());
            actions.all.push(action);
        }
    }
    Ok(actions)
}

fn action(entities: &Entities, maker: &Maker, id: &str) -> Option<Action> {
    let uid = maker.action(id);
    let entity = entities.get(&uid)?.clone();
    let ancestors = entities.ancestors(&uid)?;
    Some(Action { keys: ActionKey::of(&uid, ancestors), entity, route: None })
}

/// A short hash of mesh and policies. Folders differ between machines, so only file names count.
fn version(schema: &str, files: &[(PathBuf, String)]) -> String {
    let mut parts: HashMap<String, Vec<&str>> = HashMap::new();
    for (path, text) in files {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        parts.entry(name.unwrap_or_default()).or_default().push(text);
    }
    let mut parts: Vec<(String, Vec<&str>)> = parts.into_iter().collect();
    parts.sort();
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(schema.as_bytes());
    for (name, texts) in parts {
        for text in texts {
            // Lengths keep `ab` + `c` apart from `a` + `bc`.
            hash.update(format!("\0{}\0{}\0", name.len(), text.len()).as_bytes());
            hash.update(name.as_bytes());
            hash.update(text.as_bytes());
        }
    }
    hex::encode(hash.finish().as_ref().get(..6).unwrap_or_default())
}

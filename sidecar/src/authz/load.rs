//! Loading: policy files as text enter, a set that can be trusted leaves, or every reason why not. Nothing is loaded in
//! part: one problem refuses the set, and the caller keeps the one it has.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;
use cedar_policy::Schema;

use super::compile::compile;
use super::decide::Policies;
use super::describe::facts;
use super::lint;
use super::model::{GroupModel, Model, PolicyError};
use super::parse::{Parsings, Source, is_test};
use super::problem::{PolicyProblem, Problems};
use super::rules::{Placed, findings, fits};
use super::schema;
use super::trial::{self, Tested};
use super::validate::validate;
use super::world::{ServiceFacts, World};

/// The largest file and all files together, in bytes.
const MAX_FILE: usize = 1 << 20;
const MAX_ALL: usize = 16 << 20;
/// Stack for parsing and validating what is not deeper than allowed, with much to spare.
const STACK: usize = 64 << 20;

/// Loads a policy folder for one service.
///
/// # Errors
/// Every problem found, sorted by file and place; at most 200.
pub fn load(
    model: &Model,
    files: &[(PathBuf, String)],
    service: &str,
) -> Result<Policies, Vec<PolicyProblem>> {
    apart(
        |problems| {
            let mesh = mesh(model, problems)?;
            if !mesh.world.services.contains_key(service) {
                let unknown = PolicyError::UnknownService {
                    name: service.to_owned(),
                };
                problems.whole(PathBuf::new(), unknown.to_string(), Some("correct the mesh file"));
                return None;
            }
            let source = Source::new(files);
            let set = checked(&mesh, &source, problems)?;
            trial::hold(&mesh, model, &source, &set, problems);
            let (version, count) = (version(&mesh.schema_text, files), set.len());
            let warnings = lint::of_service(&mesh.world, &source, &set, service);
            match compile(&mesh.world, &mesh.schema, &source, &set, service) {
                Ok(set) => Some(Policies::new(version, count, set).with_warnings(warnings)),
                Err(error) => {
                    problems.whole(PathBuf::new(), error.to_string(), None);
                    None
                }
            }
        },
        files,
    )
}

/// What `check` found in a set that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The set's version, as sidecars that load it will say.
    pub version: String,
    /// How many policies it has.
    pub count: usize,
    /// How many of them each service that can be called enforces or watches in shadow.
    pub services: Vec<(String, usize)>,
    /// What is not wrong but often a trap, by file and place; at most 200.
    pub warnings: Vec<PolicyProblem>,
}

/// Checks a policy folder for the whole mesh, as each of its sidecars will.
///
/// # Errors
/// The problems that `load` would report.
pub fn check(model: &Model, files: &[(PathBuf, String)]) -> Result<Checked, Vec<PolicyProblem>> {
    apart(
        |problems| {
            let mesh = mesh(model, problems)?;
            let source = Source::new(files);
            let set = checked(&mesh, &source, problems)?;
            trial::hold(&mesh, model, &source, &set, problems);
            let concerned = |(name, service): (&String, &ServiceFacts)| {
                let scopes = set.values().map(|parsed| parsed.policy.resource_constraint());
                let count = scopes
                    .filter(|scope| fits(scope, &mesh.world, name, service))
                    .count();
                (name.clone(), count)
            };
            Some(Checked {
                version: version(&mesh.schema_text, files),
                count: set.len(),
                warnings: lint::of_all(&mesh.world, &source, &set),
                services: mesh
                    .world
                    .services
                    .iter()
                    .filter(|(_, s)| s.http || s.opaque)
                    .map(concerned)
                    .collect(),
            })
        },
        files,
    )
}

/// Runs the tests of a policy folder; that some fail is no error here.
///
/// # Errors
/// The problems that `load` would report, those of tests that cannot be read included.
pub fn test(model: &Model, files: &[(PathBuf, String)]) -> Result<Tested, Vec<PolicyProblem>> {
    apart(
        |problems| {
            let mesh = mesh(model, problems)?;
            let source = Source::new(files);
            let set = checked(&mesh, &source, problems)?;
            let (outcomes, policies) = trial::run(&mesh, model, &source, &set, problems)?;
            Some(Tested {
                version: version(&mesh.schema_text, files),
                outcomes,
                policies,
            })
        },
        files,
    )
}

/// What other programs need to reason about a set, beside its schema: services, workloads, groups, routes, roles, ports, and
/// which policies are in force and which are only watched.
///
/// # Errors
/// The problems that `load` would report, but for tests that fail.
pub fn describe(model: &Model, files: &[(PathBuf, String)]) -> Result<serde_json::Value, Vec<PolicyProblem>> {
    apart(
        |problems| {
            let mesh = mesh(model, problems)?;
            let source = Source::new(files);
            let set = checked(&mesh, &source, problems)?;
            let version = version(&mesh.schema_text, files);
            Some(facts(model, &mesh.world, &set, &version))
        },
        files,
    )
}

/// Runs on a stack that is large enough for what is allowed. Also a failure inside Cedar only refuses the set.
fn apart<T: Send>(
    work: impl FnOnce(&mut Problems) -> Option<T> + Send,
    files: &[(PathBuf, String)],
) -> Result<T, Vec<PolicyProblem>> {
    let work = || {
        let mut problems = Problems::default();
        let built = if small_enough(files, &mut problems) {
            work(&mut problems)
        } else {
            None
        };
        match built {
            Some(built) if problems.is_empty() => Ok(built),
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
            .unwrap_or_else(|_| {
                Err(broken(
                    "loading policies failed inside hopguard; nothing was loaded",
                ))
            })
    })
}

/// The mesh, with its schema as text and as Cedar's value.
pub(super) struct Mesh {
    pub(super) world: Arc<World>,
    schema_text: String,
    pub(super) schema: Schema,
}

fn mesh(model: &Model, problems: &mut Problems) -> Option<Mesh> {
    match try_mesh(model) {
        Ok(mesh) => Some(mesh),
        Err(error) => {
            problems.whole(PathBuf::new(), error.to_string(), Some("correct the mesh file"));
            None
        }
    }
}

fn try_mesh(model: &Model) -> Result<Mesh, PolicyError> {
    let world = World::new(model)?;
    let schema_text = schema::text(&world);
    let fail = |detail: String| PolicyError::Schema { detail };
    let (schema, warnings) = Schema::from_cedarschema_str(&schema_text).map_err(|e| fail(e.to_string()))?;
    match warnings.map(|w| w.to_string()).next() {
        Some(detail) => Err(fail(detail)),
        None => Ok(Mesh {
            world: Arc::new(world),
            schema_text: schema_text + &groups(model),
            schema,
        }),
    }
}

/// The groups as the version counts them: the schema does not say who is in them, and decisions rest on it.
fn groups(model: &Model) -> String {
    let group = |group: &GroupModel| format!("\n// {}: {}", group.name, group.patterns.join(" "));
    model.groups.iter().map(group).collect()
}

/// The policies, if every one of them is good.
fn checked(mesh: &Mesh, source: &Source<'_>, problems: &mut Problems) -> Option<Parsings> {
    let set = source.parse(problems);
    for parsed in set.values() {
        let Some(scan) = source.scan(parsed.file) else {
            continue;
        };
        let placed = Placed {
            policy: &parsed.policy,
            reads: &parsed.reads,
            scan,
            span: parsed.span,
        };
        for (span, message, hint) in findings(&mesh.world, &placed) {
            source.problem(problems, parsed.file, span, (message, hint));
        }
    }
    validate(source, &mesh.schema, &set, problems);
    problems.is_empty().then_some(set)
}

fn small_enough(files: &[(PathBuf, String)], problems: &mut Problems) -> bool {
    for (path, text) in files {
        if text.len() > MAX_FILE {
            problems.whole(
                path.clone(),
                format!("the file has more than {MAX_FILE} bytes"),
                Some("split it"),
            );
        }
    }
    if files.iter().map(|(_, text)| text.len()).sum::<usize>() > MAX_ALL {
        problems.whole(
            PathBuf::new(),
            format!("the policy files together have more than {MAX_ALL} bytes"),
            None,
        );
    }
    problems.is_empty()
}

/// A short hash of mesh and policies, not of their tests. Folders differ between machines, so only file names count.
fn version(schema: &str, files: &[(PathBuf, String)]) -> String {
    let mut parts: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (path, text) in files.iter().filter(|(path, _)| !is_test(path)) {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        parts.entry(name.unwrap_or_default()).or_default().push(text);
    }
    // The order of files is nothing either; several of one name are sorted by what they say.
    parts.values_mut().for_each(|texts| texts.sort_unstable());
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

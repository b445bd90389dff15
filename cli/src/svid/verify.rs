//! `hopguard svid verify`: an SVID and a bundle enter, whether the one is to be trusted by the other leaves. A certificate
//! is proven by the sidecar's own verifier, a token by `jose`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use hopguard_ca::workload::LEEWAY;
use hopguard_jose::{Algorithms, KeyPolicy, KeySet, Rules, Token, TokenTypes};
use hopguard_sidecar::identity::{Bundles, parse_id};
use hopguard_sidecar::tls;
use serde_json::json;
use spiffe::{SpiffeId, TrustDomain};

use super::files::read;
use super::id;
use super::inspect::{chain_of, examined, show};
use crate::bundle::document::Bundle;
use crate::ui::{Exit, Failure, Ui, printable};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Verify {
    /// A certificate chain, leaf first, as PEM or DER; with --jwt a token; `-` reads stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The bundle of its trust domain: a SPIFFE bundle document, or for certificates PEM or DER
    #[arg(long, value_name = "BUNDLE")]
    bundle: PathBuf,
    /// It must be of this identity
    #[arg(long, value_name = "SPIFFE-ID")]
    id: Option<String>,
    /// It must be of this trust domain, whose bundle it is; needed for a JWT-SVID where no root of the bundle names one
    #[arg(long, value_name = "TRUST-DOMAIN")]
    trust_domain: Option<String>,
    /// It is a JWT-SVID
    #[arg(long, requires = "audience")]
    jwt: bool,
    /// Who we are: the JWT-SVID must be for us
    #[arg(long, value_name = "AUDIENCE", requires = "jwt")]
    audience: Option<String>,
}

/// Who it must be.
struct Expected {
    id: Option<SpiffeId>,
    domain: Option<TrustDomain>,
}

impl Expected {
    fn of(verify: &Verify) -> Result<Self, Failure> {
        let domain = verify.trust_domain.as_deref().map(|text| {
            let domain = TrustDomain::new(text).ok();
            domain.ok_or_else(|| Failure::new(format!("`{text}` is not a trust domain")).exit(Exit::Usage))
        });
        Ok(Self {
            id: verify.id.as_deref().map(id).transpose()?,
            domain: domain.transpose()?,
        })
    }

    /// What is not as expected.
    fn problems(&self, found: &SpiffeId) -> Vec<String> {
        let other = self.id.as_ref().filter(|id| *id != found);
        let foreign = self
            .domain
            .as_ref()
            .filter(|domain| *domain != found.trust_domain());
        let other = other.map(|id| format!("it is of {found}, and {id} was expected"));
        let foreign = foreign.map(|domain| {
            format!(
                "it is of the trust domain {}, and {domain} was expected",
                found.trust_domain()
            )
        });
        other.into_iter().chain(foreign).collect()
    }

    /// Whose bundle it is. Its roots say so where they name a trust domain; the keys of JWT-SVIDs say nothing of their own,
    /// so without such roots it must be told: the key of one trust domain proves no subject of another (S-18).
    fn owner(&self, bundle: &Bundle) -> Result<TrustDomain, String> {
        let told = self
            .domain
            .as_ref()
            .or_else(|| self.id.as_ref().map(SpiffeId::trust_domain));
        let mut named = bundle.named().into_iter();
        match (named.next(), named.next(), told) {
            (Some(_), Some(_), _) => Err("the roots of the bundle are of several trust domains".to_owned()),
            (Some(of), None, Some(told)) if of != told => Err(format!(
                "the bundle is of the trust domain {of}, and {told} was expected"
            )),
            (Some(of), None, _) => Ok(of.clone()),
            (None, _, Some(told)) => Ok(told.clone()),
            (None, _, None) => Err(
                "the bundle does not say whose it is (no root in it names a trust domain): name its trust domain by \
                 --trust-domain"
                    .to_owned(),
            ),
        }
    }

    /// What a token that the bundle's keys prove is not to be trusted for.
    fn problems_of_token(&self, found: &SpiffeId, bundle: &Bundle) -> Vec<String> {
        let mut problems = self.problems(found);
        match self.owner(bundle) {
            Ok(owner) if owner == *found.trust_domain() => {}
            Ok(owner) => problems.push(format!(
                "its subject {found} is of another trust domain than the bundle, which is of {owner}"
            )),
            Err(problem) => problems.push(problem),
        }
        problems
    }
}

/// Runs it.
pub fn run(verify: &Verify, ui: &Ui) -> Result<Exit, Failure> {
    let expected = Expected::of(verify)?;
    let bundle = Bundle::open(&verify.bundle)?;
    match &verify.audience {
        Some(audience) => token(verify, (&expected, &bundle), audience, ui),
        None => certificate(verify, (&expected, &bundle), ui),
    }
}

fn certificate(verify: &Verify, (expected, bundle): (&Expected, &Bundle), ui: &Ui) -> Result<Exit, Failure> {
    let chain = chain_of(&verify.file)?;
    let now = SystemTime::now();
    let mut said = examined(&chain);
    if let Ok(id) = parse_id(&said.spiffe_id) {
        said.problems.extend(expected.problems(&id));
        let domain = id.trust_domain().clone();
        // A root that is an SVID says whose it is (S-13); a root of another trust domain proves nothing here (S-18).
        let (ours, others): (Vec<_>, Vec<_>) = bundle
            .roots
            .iter()
            .partition(|root| root.domain.as_ref().is_none_or(|of| *of == domain));
        if !others.is_empty() {
            said.problems.push(format!(
                "the bundle holds roots of another trust domain than {domain}"
            ));
        }
        let roots = ours.into_iter().map(|root| root.certificate.clone()).collect();
        let bundles = Bundles::new(BTreeMap::from([(domain, roots)]), Vec::new());
        if let Err(error) = tls::prove(&chain, &bundles, now) {
            said.problems.push(error.to_string());
        }
    }
    let exit = if said.problems.is_empty() {
        Exit::Done
    } else {
        Exit::No
    };
    if ui.is_json() {
        ui.json(&json!({"trusted": said.problems.is_empty(), "svid": said}));
    } else {
        verdict(exit, ui);
        show(&said, None, ui);
    }
    Ok(exit)
}

fn token(
    verify: &Verify,
    (expected, bundle): (&Expected, &Bundle),
    audience: &str,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let bad =
        |problem: String| Failure::new(format!("`{}`: {problem}", verify.file.display())).exit(Exit::BadFile);
    let bytes = read(&verify.file).map_err(|error| bad(error.to_string()))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| bad("it is not text".to_owned()))?;
    let keys = KeySet::parse(&bundle.jwt_keys, &KeyPolicy::JWT_SVID)
        .map_err(|error| bad(format!("the keys of the bundle: {error}")))?;
    let rules = Rules {
        algorithms: Algorithms::JWT_SVID,
        types: TokenTypes::svid(),
        issuer: None,
        audiences: vec![audience.to_owned()],
        leeway: LEEWAY,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let verified = Token::parse(text.trim())
        .and_then(|token| token.verify(&keys, &rules, now))
        .map_err(|error| error.to_string());
    let (subject, mut problems) = match verified {
        Ok(verified) => match parse_id(&verified.claims.subject) {
            Ok(id) => (id.to_string(), expected.problems_of_token(&id, bundle)),
            Err(error) => (verified.claims.subject, vec![format!("its subject: {error}")]),
        },
        Err(error) => (String::new(), vec![error]),
    };
    if keys.is_empty() {
        problems.push("the bundle holds no key for JWT-SVIDs".to_owned());
    }
    let exit = if problems.is_empty() { Exit::Done } else { Exit::No };
    if ui.is_json() {
        ui.json(&json!({"trusted": problems.is_empty(), "spiffe_id": subject, "problems": problems}));
    } else {
        verdict(exit, ui);
        if !subject.is_empty() {
            ui.line(printable(&subject));
        }
        for problem in problems {
            ui.line(format!(
                "  {}     {}",
                ui.paint("31", "problem"),
                printable(&problem)
            ));
        }
    }
    Ok(exit)
}

fn verdict(exit: Exit, ui: &Ui) {
    ui.line(match exit {
        Exit::Done => ui.paint("32", "trusted"),
        _ => ui.paint("31", "not to be trusted"),
    });
}

//! How issuers are asked about tokens: the table `introspection` of an issuer enters, its options leave. It asks nobody.

use std::ops::Range;
use std::time::Duration;

use crate::authn::{ClientAuth, IntrospectionOptions, is_token_prefix};

use super::document::{Document, Section, Wrong};
use super::mesh::choice;
use super::settings::secret;
use super::{shape, words};

/// The shortest and the longest that an answer may be believed.
const CACHE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const DEFAULT_CACHE: Duration = Duration::from_secs(30);

/// Whose opaque tokens are whose, across issuers.
#[derive(Default)]
pub(super) struct Prefixes {
    seen: Vec<(Option<String>, usize)>,
}

/// Reads the table; `http` says whether plain http to this machine may be used.
pub(super) fn introspection(
    issuer: &Section<'_, '_>,
    http: bool,
    prefixes: &mut Prefixes,
) -> Option<IntrospectionOptions> {
    let section = issuer.table("introspection")?;
    let document = section.document;
    let endpoint = section.parsed("endpoint", |text| words::url(text, http));
    let client_id = section.parsed("client_id", |text| words::plain_text("a client id", text));
    let file = section.text("client_secret_file");
    let path = file.map(|at| {
        let path = document.resolve(at.value);
        if let Err(problem) = secret(&path) {
            document.other(at.span, problem);
        }
        path
    });
    let auth = choice(
        &section,
        "auth",
        &[("basic", ClientAuth::Basic), ("post", ClientAuth::Post)],
    );
    let cache = section.parsed("cache", cache);
    let prefix = section.parsed("token_prefix", token_prefix);
    let span = prefix.as_ref().map_or(section.span.clone(), |at| at.span.clone());
    // One that could not be read is not the absence of one.
    if section.has("token_prefix") == prefix.is_some() {
        prefixes.add(document, prefix.as_ref().map(|at| at.value.clone()), &span);
    }
    Some(IntrospectionOptions {
        endpoint: endpoint.map(|at| at.value),
        client_id: client_id?.value,
        client_secret_file: path?,
        auth: auth.unwrap_or(ClientAuth::Basic),
        cache: cache.map_or(DEFAULT_CACHE, |at| at.value),
        token_prefix: prefix.map(|at| at.value),
        audience_required: section.boolean("audience_required").is_none_or(|at| at.value),
        every_token: section.boolean("every_token").is_some_and(|at| at.value),
    })
}

impl Prefixes {
    fn add(&mut self, document: &Document, prefix: Option<String>, span: &Range<usize>) {
        let clashes = |other: &Option<String>| match (other, &prefix) {
            (Some(other), Some(prefix)) => {
                other.starts_with(prefix.as_str()) || prefix.starts_with(other.as_str())
            }
            (None, None) => true,
            _ => false,
        };
        if let Some((_, line)) = self.seen.iter().find(|(other, _)| clashes(other)) {
            document.add(
                span.clone(),
                format!("an opaque token could be of this issuer or of the one in line {line}"),
                Some("give each a `token_prefix` of its own; at most one issuer goes without".to_owned()),
            );
        }
        self.seen.push((prefix, document.line(span)));
    }
}

fn cache(text: &str) -> Result<Duration, Wrong> {
    let cache = words::duration(text)?;
    if CACHE.contains(&cache) {
        return Ok(cache);
    }
    Err(Wrong::new(
        format!("{} is not possible for `cache`", shape::shown(text)),
        "write a time from 1s to 1h; a revoked token may pass for so long",
    ))
}

fn token_prefix(text: &str) -> Result<String, Wrong> {
    if is_token_prefix(text) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(
        format!("`{}` is no beginning of an opaque token", shape::shown(text)),
        "1 to 64 letters, digits and -._~+/, with which no JWT begins (JWTs begin with `ey`)",
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use crate::authn::IssuerKind;
    use crate::config::{Mesh, parse_mesh};

    use super::*;

    /// A mesh file with these issuers, beside a file with a secret.
    fn read(issuers: &str) -> Result<Mesh, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("secret", 0o600), ("open", 0o644)] {
            let path = dir.path().join(name);
            std::fs::write(&path, "s").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let text = format!("trust_domain = \"m.l\"\n{issuers}");
        parse_mesh(&dir.path().join("mesh.toml"), &text).map_err(|problems| {
            let lines = problems.iter().map(|p| format!("{}: {}", p.line, p.message));
            lines.collect::<Vec<_>>().join("\n")
        })
    }

    fn provider(alias: &str, more: &str) -> String {
        format!(
            "[[issuer]]\nalias = \"{alias}\"\nissuer = \"https://{alias}\"\naudiences = [\"x\"]\nintrospection = {{ client_id = \"c\", client_secret_file = \"secret\"{more} }}\n"
        )
    }

    #[test]
    fn what_is_configured_arrives() {
        let mesh = read(&provider("a", "")).unwrap();
        let asking = mesh.issuer_options().remove(0).introspection.unwrap();
        assert_eq!(
            (asking.cache, asking.auth),
            (Duration::from_secs(30), ClientAuth::Basic)
        );
        assert!(asking.audience_required && !asking.every_token && asking.endpoint.is_none());
        let more = ", endpoint = \"https://a/x\", auth = \"post\", cache = \"2m\", token_prefix = \"at_\", audience_required = false, every_token = true";
        let asking = read(&provider("a", more))
            .unwrap()
            .issuer_options()
            .remove(0)
            .introspection
            .unwrap();
        assert_eq!(
            (
                asking.endpoint.as_deref(),
                asking.cache,
                asking.auth,
                asking.token_prefix.as_deref()
            ),
            (
                Some("https://a/x"),
                Duration::from_secs(120),
                ClientAuth::Post,
                Some("at_")
            )
        );
        assert!(!asking.audience_required && asking.every_token);
    }

    #[test]
    fn what_cannot_be_is_told_in_its_place() {
        for (more, problem) in [
            (", cache = \"0s\"", "6: 0s is not possible for `cache`"),
            (", cache = \"2h\"", "6: 2h is not possible for `cache`"),
            (
                ", token_prefix = \"eyJ\"",
                "6: `eyJ` is no beginning of an opaque token",
            ),
            (", endpoint = \"http://a/x\"", "6: `http://a/x` is plain http"),
            (", auth = \"none\"", "6: `none` is not a value of `auth`"),
        ] {
            let said = read(&provider("a", more)).unwrap_err();
            assert!(said.contains(problem), "{said}");
        }
        let open = provider("a", "").replace("\"secret\"", "\"open\"");
        assert!(read(&open).unwrap_err().contains("other users have rights to it"));
        let none = provider("a", "").replace("\"secret\"", "\"none\"");
        assert!(read(&none).unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn an_opaque_token_is_of_one_issuer() {
        let prefixed = |alias, prefix| provider(alias, &format!(", token_prefix = \"{prefix}\""));
        assert!(read(&(prefixed("a", "at_") + &prefixed("b", "bt_") + &provider("c", ""))).is_ok());
        for (first, second) in [
            (provider("a", ""), provider("b", "")),
            (prefixed("a", "at_"), prefixed("b", "at_x")),
            (prefixed("a", "at_x"), prefixed("b", "at_")),
        ] {
            let said = read(&(first + &second)).unwrap_err();
            assert!(
                said.contains("could be of this issuer or of the one in line 6"),
                "{said}"
            );
        }
    }

    #[test]
    fn jwt_svids_are_of_a_trust_domain() {
        let svid = |more: &str| {
            format!("[[issuer]]\nalias = \"w\"\nkind = \"jwt-svid\"\naudiences = [\"x\"]\n{more}")
        };
        let options = |text: &str| read(text).unwrap().issuer_options().remove(0);
        assert_eq!(options(&svid("")).issuer, "spiffe://m.l");
        assert_eq!(options(&svid("trust_domain = \"o.t\"")).issuer, "spiffe://o.t");
        assert_eq!(options(&svid("")).kind, IssuerKind::JwtSvid);
        for (more, problem) in [
            ("issuer = \"https://a\"", "`issuer` is not for JWT-SVIDs"),
            ("jwks_uri = \"https://a\"", "`jwks_uri` is not for JWT-SVIDs"),
            ("trust_domain = \"O.T\"", "not in canonical form"),
        ] {
            let said = read(&svid(more)).unwrap_err();
            assert!(said.contains(problem), "{said}");
        }
        let twice = svid("") + &svid("").replace("\"w\"", "\"v\"");
        assert!(read(&twice).unwrap_err().contains("appears twice"));
        let nameless = "[[issuer]]\nalias = \"a\"\naudiences = [\"x\"]\n";
        assert!(read(nameless).unwrap_err().contains("`issuer` is missing"));
        let both = provider("a", "") + "trust_domain = \"m.l\"\n";
        assert!(read(&both).unwrap_err().contains("not for a provider"));
    }
}

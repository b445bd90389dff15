//! `hopguard token inspect`: a token enters by stdin or from a file, never as an argument, which others can see; its header
//! and claims leave, with what is wrong at first sight. Nothing is verified, and its signature is never shown.

mod svid;

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hopguard_ca::workload::LEEWAY;
use hopguard_jose::{Algorithm, Json, MAX_HEADER_BYTES, MAX_TOKEN_BYTES};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::ui::{Exit, Failure, Ui};

/// The most that is read; what a sidecar accepts is far less, and said.
const MAX_INPUT: u64 = 64 * 1024;
/// Of tokens of users, whose theft should not count for long.
const LONG_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Say what a JWT holds and what is wrong with it at first sight (exit 1 if anything); its signature is NOT verified
    ///
    /// A token whose subject is a SPIFFE ID is judged by the rules of JWT-SVIDs. Header and claims are shown whole, so do not do it where others read along; the signature is not shown. A token is
    /// never given as an argument: other users of the machine see those.
    #[command(after_help = "\
Examples: hopguard demo token alice | hopguard token inspect
          xclip -o | hopguard -o json token inspect | jq .claims")]
    Inspect(Inspect),
}

#[derive(clap::Args)]
struct Inspect {
    /// A file with the token in compact form, a leading `Bearer ` is passed over; `-` reads stdin
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

/// Runs the verb.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    let What::Inspect(Inspect { file }) = args.what;
    let text = read(&file, ui)?;
    let said = inspect(&text, SystemTime::now()).map_err(|problem| {
        Failure::new(format!("{}: {problem}", place(&file)))
            .hint(
                "a JWT in compact form is three parts of base64url, joined by dots: header.claims.signature",
            )
            .exit(Exit::BadFile)
    })?;
    if ui.is_json() {
        ui.json(&said);
    } else {
        show(&said, ui);
    }
    Ok(if said.problems.is_empty() {
        Exit::Done
    } else {
        Exit::No
    })
}

fn place(file: &Path) -> String {
    if file == Path::new("-") {
        "stdin".to_owned()
    } else {
        format!("`{}`", file.display())
    }
}

fn read(file: &Path, ui: &Ui) -> Result<String, Failure> {
    let name = file.to_string_lossy();
    if name.starts_with("eyJ") && name.matches('.').count() >= 2 && !file.exists() {
        return Err(Failure::new(
            "a token is not given as an argument: other users of this machine can see it",
        )
        .hint("write it to stdin or name a file; count this one as known to others")
        .exit(Exit::Usage));
    }
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        if std::io::stdin().is_terminal() {
            ui.note("the token, then ctrl-D:");
        }
        std::io::stdin().take(MAX_INPUT + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(MAX_INPUT + 1).read_to_end(&mut bytes))
    };
    let bad = |why: String| Failure::new(format!("{}: {why}", place(file))).exit(Exit::BadFile);
    read.map_err(|error| bad(error.to_string()).hint("name a file that holds a token, or `-` for stdin"))?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(bad(format!("it is larger than {MAX_INPUT} bytes")).hint("a token has a few KiB"));
    }
    String::from_utf8(bytes).map_err(|_| bad("it is not text".to_owned()))
}

/// What a token says of itself, and what is wrong with it at first sight.
#[derive(Debug, Serialize)]
struct Inspected {
    /// `jwt-svid` when the subject is a SPIFFE ID, else `jwt`.
    kind: &'static str,
    header: Value,
    claims: Value,
    /// `now`, `expired`, `not_yet` or `unknown`.
    valid: &'static str,
    /// Negative once it passed; `null` without `exp`.
    expires_in_seconds: Option<i64>,
    /// Always false: this verb has no keys.
    signature_verified: bool,
    /// Each would keep a sidecar from accepting it.
    problems: Vec<String>,
    /// What somebody should know.
    warnings: Vec<String>,
}

fn inspect(text: &str, now: SystemTime) -> Result<Inspected, String> {
    let text = text.trim();
    let token = text
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map_or(text, |(_, token)| token.trim());
    let parts: Vec<&str> = token.split('.').collect();
    let (header, claims, signature) = match parts.as_slice() {
        [header, claims, signature] => (decoded("header", header)?, decoded("claims", claims)?, *signature),
        [_, _, _, _, _] => return Err("it is encrypted (JWE): it cannot be read without its key".to_owned()),
        other => return Err(format!("{} parts instead of three", other.len())),
    };
    let mut said = Inspected {
        kind: "jwt",
        header: object("header", &header)?,
        claims: object("claims", &claims)?,
        valid: "unknown",
        expires_in_seconds: None,
        signature_verified: false,
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    sizes(&mut said, token, &header);
    for (name, bytes) in [("header", &header), ("claims", &claims)] {
        if let Err(fault) = Json::parse(bytes) {
            said.problems.push(format!(
                "the {name}: {fault}: two readers could read it differently"
            ));
        }
    }
    let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let (header, claims) = (fields(&said.header), fields(&said.claims));
    said.algorithm(&header, signature);
    said.extensions(&header);
    if svid::is_one(&claims) {
        said.kind = "jwt-svid";
        svid::judge(&mut said, &header, &claims);
    }
    said.parties(&claims);
    said.times(&claims, now);
    Ok(said)
}

fn decoded(name: &str, part: &str) -> Result<Vec<u8>, String> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| format!("its {name} is not canonical base64url (RFC 4648, 5, without padding)"))
}

fn object(name: &str, bytes: &[u8]) -> Result<Value, String> {
    match serde_json::from_slice(bytes) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(format!("its {name} is not a JSON object")),
        Err(_) => Err(format!("its {name} is not JSON")),
    }
}

fn sizes(said: &mut Inspected, token: &str, header: &[u8]) {
    if token.len() > MAX_TOKEN_BYTES {
        said.problems
            .push(format!("it is longer than {MAX_TOKEN_BYTES} bytes"));
    }
    if header.len() > MAX_HEADER_BYTES {
        said.problems
            .push(format!("its header is longer than {MAX_HEADER_BYTES} bytes"));
    }
}

impl Inspected {
    fn algorithm(&mut self, header: &Map<String, Value>, signature: &str) {
        let problem = match header.get("alg").and_then(Value::as_str) {
            None => "no `alg`: nobody can verify it".to_owned(),
            Some(none) if none.eq_ignore_ascii_case("none") => {
                "`alg` is none: it is not signed, anybody can have written it".to_owned()
            }
            Some(name) if name.starts_with("HS") => format!(
                "`alg` is {name}, a shared secret: whoever can verify it can forge it, so no sidecar accepts it"
            ),
            Some(name) => match name.parse::<Algorithm>() {
                Ok(_) if signature.is_empty() => "it has no signature".to_owned(),
                Ok(_) => return,
                Err(unknown) => format!("`alg` is {name}: {unknown}"),
            },
        };
        self.problems.push(problem);
    }

    /// RFC 7515, 4.1: what must be understood, and keys that whoever wrote the token chose.
    fn extensions(&mut self, header: &Map<String, Value>) {
        for name in ["crit", "b64", "zip", "enc"] {
            if header.contains_key(name) {
                self.problems
                    .push(format!("the header has `{name}`: no sidecar accepts that"));
            }
        }
        for name in ["jwk", "jku", "x5u", "x5c"] {
            if header.contains_key(name) {
                self.warnings
                    .push(format!("the header offers a key (`{name}`): sidecars take keys from their configured issuers only"));
            }
        }
    }

    fn parties(&mut self, claims: &Map<String, Value>) {
        for (name, why) in [
            ("iss", "no issuer's keys could be chosen"),
            ("aud", "it would be good for any service"),
            ("sub", "nobody is named"),
        ] {
            if name == "iss" && self.kind == "jwt-svid" {
                // The keys are those of the subject's trust domain.
                continue;
            }
            let missing = match claims.get(name) {
                None | Some(Value::Null) => true,
                Some(Value::String(text)) => text.is_empty(),
                Some(Value::Array(items)) => items.is_empty(),
                Some(_) => false,
            };
            if missing {
                self.problems.push(format!("no `{name}`: {why}"));
            }
        }
    }

    fn times(&mut self, claims: &Map<String, Value>, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let time = |said: &mut Self, name: &str| match claims.get(name).map(numeric_date) {
            Some(None) => {
                said.problems
                    .push(format!("`{name}` is not a number of seconds since 1970"));
                None
            }
            found => found.flatten(),
        };
        let (exp, nbf, iat) = (time(self, "exp"), time(self, "nbf"), time(self, "iat"));
        self.expires_in_seconds = exp.map(|exp| exp.saturating_sub(now));
        self.valid = match (exp, nbf) {
            (Some(exp), _) if exp <= now => "expired",
            (_, Some(nbf)) if nbf > now => "not_yet",
            (Some(_), _) => "now",
            (None, _) => "unknown",
        };
        if let Some(exp) = exp.filter(|exp| *exp <= now) {
            self.problems.push(format!("expired at {}", date(exp)));
        }
        if let Some(nbf) = nbf.filter(|nbf| *nbf > now) {
            self.problems.push(format!("not valid before {}", date(nbf)));
        }
        if !claims.contains_key("exp") {
            self.problems.push("no `exp`: it would never end".to_owned());
        }
        self.issued(iat, now);
        let life = exp
            .zip(iat.or(nbf))
            .map(|(exp, from)| exp.saturating_sub(from))
            .and_then(|life| u64::try_from(life).ok());
        if life.is_some_and(|life| life > LONG_LIFE.as_secs()) {
            self.warnings
                .push("it lives longer than a day: a stolen one is of use for as long".to_owned());
        }
    }

    fn issued(&mut self, iat: Option<i64>, now: i64) {
        if let Some(iat) = iat.filter(|iat| *iat > now) {
            let said = format!("issued in the future, at {}: the clocks differ", date(iat));
            // Within what verifiers of JWT-SVIDs allow it is no reason to refuse it.
            if self.kind == "jwt-svid" && iat > now.saturating_add(LEEWAY) {
                self.problems.push(said);
            } else {
                self.warnings.push(said);
            }
        }
    }
}

/// `NumericDate` of RFC 7519, 2: seconds, perhaps with a fraction.
fn numeric_date(value: &Value) -> Option<i64> {
    let whole = value.as_i64();
    whole.or_else(|| {
        let seconds = value.as_f64()?;
        // Beyond, a double holds no single seconds; a year has four digits there.
        if seconds.abs() > 253_402_300_799.0 {
            return None;
        }
        format!("{:.0}", seconds.trunc()).parse().ok()
    })
}

fn date(seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s since 1970"))
}

fn show(said: &Inspected, ui: &Ui) {
    if said.kind == "jwt-svid" {
        ui.line("a JWT-SVID");
    }
    for (name, value) in [("header", &said.header), ("claims", &said.claims)] {
        ui.line(ui.paint("1", name));
        ui.json_for_people(value);
    }
    for name in ["iat", "nbf", "exp"] {
        if let Some(seconds) = said.claims.get(name).and_then(numeric_date) {
            ui.line(format!("  {name:<11} {}", date(seconds)));
        }
    }
    ui.line("  signature   NOT verified: whatever stands above may be a lie");
    for warning in &said.warnings {
        ui.line(format!("  {}     {warning}", ui.paint("33", "warning")));
    }
    for problem in &said.problems {
        ui.line(format!("  {}     {problem}", ui.paint("31", "problem")));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn jwt(header: &str, claims: &str) -> String {
        format!(
            "{}.{}.c2ln",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        )
    }

    const ES256: &str = r#"{"alg":"ES256","kid":"1"}"#;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn claims(more: &str) -> String {
        format!(r#"{{"iss":"https://idp","sub":"alice","aud":"shop"{more}}}"#)
    }

    fn said(header: &str, more: &str) -> Inspected {
        inspect(&jwt(header, &claims(more)), at(1000)).unwrap()
    }

    #[test]
    fn a_good_token_has_no_problems_and_its_signature_is_not_told() {
        let said = said(ES256, r#","exp":1600,"iat":900"#);
        assert!(
            said.problems.is_empty() && said.warnings.is_empty(),
            "{:?}",
            said.problems
        );
        assert_eq!((said.valid, said.expires_in_seconds), ("now", Some(600)));
        assert_eq!(said.claims["sub"], "alice");
        let json = serde_json::to_string(&said).unwrap();
        assert!(
            !json.contains("c2ln") && json.contains("\"signature_verified\":false"),
            "{json}"
        );
    }

    #[test]
    fn times_are_judged_as_they_stand() {
        for (more, valid, word) in [
            (r#","exp":1000"#, "expired", "expired at 1970-01-01T00:16:40Z"),
            (r#","exp":2000,"nbf":1001"#, "not_yet", "not valid before"),
            (r#","exp":"soon""#, "unknown", "`exp` is not a number"),
            ("", "unknown", "no `exp`"),
        ] {
            let said = said(ES256, more);
            assert_eq!(said.valid, valid, "{more}");
            assert!(said.problems.iter().any(|p| p.contains(word)), "{said:?}");
        }
        assert_eq!(said(ES256, r#","exp":1000.9"#).expires_in_seconds, Some(0));
        assert!(said(ES256, r#","exp":2000,"iat":1500"#).warnings[0].contains("in the future"));
        assert!(said(ES256, r#","exp":99999999,"iat":1"#).warnings[0].contains("longer than a day"));
        assert!(
            said(ES256, r#","exp":1e300"#)
                .problems
                .iter()
                .any(|p| p.contains("exp"))
        );
    }

    #[test]
    fn weak_and_unknown_algorithms_and_extensions_are_told() {
        for (header, word) in [
            (r#"{"alg":"none"}"#, "not signed"),
            (r#"{"alg":"NoNe"}"#, "not signed"),
            (r#"{"alg":"HS256"}"#, "shared secret"),
            (r#"{"alg":"ES256K"}"#, "not a supported algorithm"),
            (r#"{"typ":"JWT"}"#, "no `alg`"),
            (r#"{"alg":"ES256","crit":["b64"]}"#, "`crit`"),
            (r#"{"alg":"ES256","alg":"none"}"#, "two readers"),
        ] {
            let problems = said(header, r#","exp":2000"#).problems.join("; ");
            assert!(problems.contains(word), "{header}: {problems}");
        }
        let offers = said(r#"{"alg":"ES256","jwk":{}}"#, r#","exp":2000"#);
        assert!(offers.problems.is_empty() && offers.warnings[0].contains("`jwk`"));
        let bare = inspect(&jwt(ES256, "{}"), at(1000)).unwrap();
        assert_eq!(bare.problems.len(), 4, "iss, aud, sub and exp: {bare:?}");
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_repeated() {
        let encrypted = "e30.a.b.c.d";
        for bad in [
            "",
            "secret",
            "a.b",
            encrypted,
            "e30.e30=.x",
            "W10.e30.x",
            "bm8.e30.x",
        ] {
            let problem = inspect(bad, at(0)).unwrap_err();
            assert!(bad.is_empty() || !problem.contains(bad), "{bad}: {problem}");
        }
        assert!(inspect(encrypted, at(0)).unwrap_err().contains("JWE"));
        let bearer = format!("  bearer {}\n", jwt(ES256, r#"{"exp":1}"#));
        assert_eq!(inspect(&bearer, at(0)).unwrap().claims, json!({"exp": 1}));
    }
}

//! The oracle: Cedar's own authorizer on the whole set. Entities and context are made by another path than the product's
//! (JSON, checked against the schema), and routes are matched by another reading of the templates.

use std::collections::BTreeSet;
use std::str::FromStr;

use cedar_policy::{
    Authorizer, Context, Decision as Cedar, Effect, Entities, EntityUid, PolicyId, PolicySet, Request, Schema,
};
use serde_json::{Value, json};

use super::*;

/// The action of a request, by reading the templates of the mesh one after the other.
fn action_of(ask: &Ask) -> (String, Value) {
    if ask.connect {
        return ("connect".to_owned(), Value::Null);
    }
    let parts: Vec<&str> = ask.path.split('/').skip(1).collect();
    match (ask.method.as_str(), parts.as_slice()) {
        ("GET", ["tenants", t, "orders", i]) if !t.is_empty() && !i.is_empty() => {
            ("shop/orders#getOrder".to_owned(), json!({"tenant": t, "id": i}))
        }
        ("POST", ["tenants", t, "orders"]) if !t.is_empty() => {
            ("shop/orders#createOrder".to_owned(), json!({"tenant": t}))
        }
        ("GET" | "DELETE", ["items", i]) if !i.is_empty() => {
            (format!("shop/orders#item:{}", ask.method), json!({"id": i}))
        }
        ("PURGE", ["cache", ..]) => ("shop/orders#purge".to_owned(), json!({})),
        ("GET" | "HEAD" | "OPTIONS" | "POST" | "PUT" | "PATCH" | "DELETE", _) => {
            (ask.method.clone(), Value::Null)
        }
        _ => ("OTHER".to_owned(), Value::Null),
    }
}

fn date(millis: i64) -> Value {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).unwrap();
    let form = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    );
    json!({"__extn": {"fn": "datetime", "arg": at.format(form).unwrap()}})
}

fn entity(kind: &str, id: &str, attrs: Value, parents: Vec<Value>) -> Value {
    json!({"uid": {"type": kind, "id": id}, "attrs": attrs, "parents": parents})
}

fn reference(kind: &str, id: &str) -> Value {
    json!({"type": kind, "id": id})
}

fn optional(of: &mut Value, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        of[name] = value;
    }
}

pub(super) fn entities_of(ask: &Ask, schema: &Schema) -> Entities {
    let domain = |name: &str| vec![reference("TrustDomain", name)];
    let mut all = vec![
        entity("TrustDomain", "mesh.local", json!({}), vec![]),
        entity("Namespace", "shop", json!({}), domain("mesh.local")),
        entity("Namespace", "web", json!({}), domain("mesh.local")),
        entity(
            "Service",
            "shop/orders",
            json!({}),
            vec![reference("Namespace", "shop")],
        ),
    ];
    if let Some(peer) = &ask.peer {
        let mut attrs = json!({"trust_domain": peer.trust_domain_name(), "path": peer.path()});
        let mut parents = domain(peer.trust_domain_name());
        if let ["ns", ns, "sa", sa] = peer.path().split('/').skip(1).collect::<Vec<_>>().as_slice() {
            attrs["ns"] = json!(ns);
            attrs["sa"] = json!(sa);
            if peer.trust_domain_name() == "mesh.local" {
                parents.push(reference("Namespace", ns));
            }
        }
        match peer.to_string().as_str() {
            WEB | BFF => parents.push(reference("Group", "frontend")),
            foreign if foreign.starts_with("spiffe://partner.example/") => {
                parents.push(reference("Group", "partners"))
            }
            _ => {}
        }
        all.push(entity("Workload", &peer.to_string(), attrs, parents));
    }
    all.extend(ask.user.as_ref().map(user_of));
    all.extend(ask.user.as_ref().and_then(actor_of).as_ref().map(user_of));
    Entities::from_json_value(json!(all), Some(schema)).unwrap()
}

pub(super) fn request_of(ask: &Ask, schema: &Schema) -> Request {
    let (action, params) = action_of(ask);
    let ip = ask.src_ip.to_canonical().to_string();
    let mut context = json!({
        "port": 8080, "tls": ask.peer.is_some(), "now": date(ask.now_millis),
        "src_ip": {"__extn": {"fn": "ip", "arg": ip}},
    });
    if !ask.connect {
        context["path"] = json!(ask.path);
        context["host"] = json!("orders.shop");
        context["headers"] = json!({});
        for (name, values) in &ask.headers {
            context["headers"][name] = json!(values);
        }
        let user = ask
            .user
            .as_ref()
            .map(|u| json!({"__entity": reference("User", &format!("{}|{}", u.alias, u.subject))}));
        optional(&mut context, "user", user);
        let actor = ask
            .user
            .as_ref()
            .and_then(|u| Some((&u.alias, u.actor.as_ref()?)));
        let actor =
            actor.map(|(alias, sub)| json!({"__entity": reference("User", &format!("{alias}|{sub}"))}));
        optional(&mut context, "actor", actor);
        optional(&mut context, "params", (!params.is_null()).then_some(params));
    }
    let uid = |kind: &str, id: &str| EntityUid::from_json(json!({"__entity": reference(kind, id)})).unwrap();
    let action = uid("Action", &action);
    let principal = match &ask.peer {
        Some(id) => uid("Workload", &id.to_string()),
        None => uid("Plaintext", "plaintext"),
    };
    let context = Context::from_json_value(context, Some((schema, &action))).unwrap();
    Request::new(
        principal,
        action,
        uid("Service", "shop/orders"),
        context,
        Some(schema),
    )
    .unwrap()
}

/// What Cedar says of the whole set, with hopguard's rule for errors.
pub(super) struct Judgement {
    pub(super) verdict: Verdict,
    pub(super) rules: BTreeSet<String>,
    pub(super) errors: usize,
}

pub(super) fn judge(whole: &PolicySet, request: &Request, entities: &Entities) -> Judgement {
    let response = Authorizer::new().is_authorized(request, whole, entities);
    let failed: Vec<&PolicyId> = response
        .diagnostics()
        .errors()
        .map(|cedar_policy::AuthorizationError::PolicyEvaluationError(e)| e.policy_id())
        .collect();
    let forbid_failed = failed
        .iter()
        .any(|id| whole.policy(id).unwrap().effect() == Effect::Forbid);
    let rules: BTreeSet<String> = response.diagnostics().reason().map(ToString::to_string).collect();
    let forbidden = response.decision() == Cedar::Deny && !rules.is_empty();
    let allowed = response.decision() == Cedar::Allow && !forbid_failed;
    Judgement {
        verdict: if allowed { Verdict::Allow } else { Verdict::Deny },
        errors: failed.len(),
        rules: match () {
            () if allowed || forbidden => rules,
            () if forbid_failed => failed
                .iter()
                .filter(|id| whole.policy(id).unwrap().effect() == Effect::Forbid)
                .map(ToString::to_string)
                .collect(),
            () => BTreeSet::new(),
        },
    }
}

/// The policies in force of a text, all of them, by `@id`.
pub(super) fn whole(text: &str) -> PolicySet {
    let set = PolicySet::from_str(text).unwrap();
    let in_force = set.policies().filter(|p| p.annotation("mode").is_none());
    PolicySet::from_policies(in_force.map(|p| p.new_id(PolicyId::new(p.annotation("id").unwrap())))).unwrap()
}

/// Who acts for the user, unless it is the user.
fn actor_of(user: &User) -> Option<User> {
    let subject = user.actor.clone().filter(|actor| *actor != user.subject)?;
    Some(User {
        alias: user.alias.clone(),
        issuer: user.issuer.clone(),
        subject,
        exp: user.exp,
        ..User::default()
    })
}

fn user_of(user: &User) -> Value {
    let mut claims = json!({});
    for (name, value) in &user.claims {
        claims[name] = match value {
            ClaimValue::String(text) => json!(text),
            ClaimValue::Strings(list) => json!(list),
            ClaimValue::Long(number) => json!(number),
            ClaimValue::Bool(yes) => json!(yes),
        };
    }
    let mut attrs = json!({
        "issuer": user.issuer, "sub": user.subject, "aud": user.audience, "scope": user.scope, "amr": user.amr,
        "exp": date(user.exp * 1000), "claims": claims,
    });
    optional(&mut attrs, "azp", user.azp.as_ref().map(|v| json!(v)));
    optional(&mut attrs, "acr", user.acr.as_ref().map(|v| json!(v)));
    optional(&mut attrs, "auth_time", user.auth_time.map(|v| date(v * 1000)));
    let parents = user
        .roles
        .iter()
        .map(|role| reference("Role", &format!("{}|{role}", user.alias)))
        .collect();
    entity(
        "User",
        &format!("{}|{}", user.alias, user.subject),
        attrs,
        parents,
    )
}

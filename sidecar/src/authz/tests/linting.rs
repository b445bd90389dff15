//! Sets that are good and yet a trap.

use super::*;

const ALL: &[&str] = &["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];

fn with_admin(more: &[(&str, &[&str], &str)]) -> Model {
    let mut model = mesh();
    let orders = model
        .services
        .iter_mut()
        .find(|s| s.name == "shop/orders")
        .unwrap();
    orders.routes.push(route("admin", &["GET", "POST"], "/admin"));
    orders.routes.push(route("files", ALL, "/files/{**}"));
    let more = more
        .iter()
        .map(|(name, methods, path)| route(name, methods, path));
    orders.routes.extend(more);
    model
}

/// The warnings of a set, by line, as `check` and as the own sidecar give them.
fn warned(model: &Model, text: &str) -> Vec<(usize, String)> {
    let files = file(text);
    let checked = check(model, &files).unwrap_or_else(|problems| panic!("{}", shown(&problems)));
    let loaded = load(model, &files, "shop/orders").unwrap();
    assert_eq!(loaded.warnings(), checked.warnings);
    let told = checked.warnings.into_iter();
    told.map(|warning| (warning.line, warning.message)).collect()
}

const PERMIT: &str = "@id(\"p\") permit(principal, action in Action::\"http\", resource);\n";

fn forbid(action: &str, rest: &str) -> String {
    format!(
        "@id(\"f\") forbid(principal, action in Action::\"{action}\", resource == Service::\"shop/orders\") {rest};\n"
    )
}

#[test]
fn a_forbid_of_a_route_leaves_other_methods() {
    let model = with_admin(&[]);
    let files = forbid("shop/orders#files", "");
    let told = warned(&model, &format!("{PERMIT}{files}"));
    assert_eq!(told.len(), 1, "{told:?}");
    let (line, message) = &told[0];
    assert!(
        *line == 2 && message.contains("`shop/orders#files` alone: OTHER on the same path"),
        "{message}"
    );
    let other = "@id(\"o\") forbid(principal, action in Action::\"OTHER\", resource) when { context.host == \"orders.shop\" };";
    for quiet in [
        format!("{PERMIT}{files}{other}"),
        files.clone(),
        format!("@id(\"p\") permit(principal, action in Action::\"shop/orders#files\", resource);\n{files}"),
        format!("@id(\"p\") permit(principal, action in Action::\"read\", resource);\n{files}"),
        format!(
            "@id(\"p\") permit(principal, action in Action::\"http\", resource == Service::\"shop/web\");\n{files}"
        ),
    ] {
        assert_eq!(warned(&model, &quiet), [], "{quiet}");
    }
    // What a permit of reads opens beside a route of writes is nothing that this forbid is about.
    let place = forbid("shop/orders#createOrder", "");
    let read = "@id(\"p\") permit(principal, action in Action::\"read\", resource);\n";
    assert_eq!(warned(&model, &format!("{read}{place}")), []);
    let told = warned(&model, &format!("{read}{}", forbid("shop/orders#admin", "")));
    assert!(told[0].1.contains("HEAD, OPTIONS on the same path"), "{told:?}");
    // Another route of the same path answers to more.
    let more = with_admin(&[
        ("admin-head", &["HEAD", "OPTIONS"], "/admin"),
        ("rest", ALL, "/admin/{**}"),
    ]);
    let told = warned(&more, &format!("{read}{}", forbid("shop/orders#admin", "")));
    assert_eq!(told.len(), 1, "{told:?}");
    let both =
        forbid("shop/orders#admin-head", "").replace("\"f\"", "\"g\"") + &forbid("shop/orders#admin", "");
    assert_eq!(warned(&more, &format!("{read}{both}")), []);
}

#[test]
fn a_route_of_one_path_leaves_what_is_beneath() {
    let set = format!(
        "@id(\"p\") permit(principal, action in Action::\"GET\", resource) when {{ context.path != \"/x\" }};\n{}",
        forbid("shop/orders#admin", "")
    );
    let told = warned(&with_admin(&[]), &set);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].1.contains("with a `/` behind"), "{told:?}");
    assert_eq!(warned(&with_admin(&[("rest", ALL, "/admin/{**}")]), &set), []);
}

#[test]
fn a_path_that_is_compared_as_text_has_other_spellings() {
    let model = with_admin(&[]);
    for (rest, trap) in [
        ("when { context.path == \"/admin\" }", true),
        (
            "when { context.host == \"orders.shop\" && (\"/admin\" == context.path || context.tls) }",
            true,
        ),
        ("when { context.path like \"/admin/*\" }", true),
        ("when { [\"/a\", \"/b\"].contains(context.path) }", true),
        (
            "when { if context.path == \"/a\" then context.tls else false }",
            true,
        ),
        ("unless { context.path != \"/admin\" }", true),
        (
            "unless { context.path == \"/public\" || context.path like \"/public/*\" }",
            false,
        ),
        ("when { !(context.path like \"/public/*\") }", false),
        ("when { context.path != \"/public\" }", false),
        ("when { context.host == \"orders.shop\" }", false),
    ] {
        let told = warned(&model, &format!("{PERMIT}{}", forbid("http", rest)));
        assert_eq!(told.len(), usize::from(trap), "{rest}: {told:?}");
        assert!(
            told.iter().all(|(_, message)| message.contains("as text")),
            "{told:?}"
        );
    }
}

/// Conditions that never hold, what is said of them, and what would.
const NEVER: &[(&str, &str, &str)] = &[
    ("context.path == \"/a b\"", "is never \"/a b\"", "/a%20b"),
    ("\"/a/../b\" != context.path", "is never", "\"/a/path\""),
    ("context.path == \"/a//b\"", "refused", "\"/a/path\""),
    (
        "context.path == \"/%61dmin\"",
        "decided on as \"/admin\"",
        "\"/admin\"",
    ),
    (
        "context.path == \"/%c3%a4\"",
        "decided on as \"/%C3%A4\"",
        "\"/%C3%A4\"",
    ),
    ("context.path == \"admin\"", "is never", "\"/admin\""),
    ("context.path == \"/a?x=1\"", "decided on as \"/a\"", "\"/a\""),
    (
        "[\"/good\", \"/b d\"].contains(context.path)",
        "is never \"/b d\"",
        "/b%20d",
    ),
    ("context.host == \"Orders.shop\"", "lower case", "\"orders.shop\""),
    (
        "context.host == \"orders.shop:8080\"",
        "without port",
        "\"orders.shop\"",
    ),
    (
        "context.host == \"order.shop\"",
        "answers to it",
        "did you mean `orders.shop`",
    ),
    ("context.host == \"a b\"", "no host", "hosts"),
    (
        "context has user && context.user.issuer == \"nosuch\"",
        "\"nosuch\"",
        "idp.example",
    ),
    (
        "context has user && context.user.issuer == \"corp\"",
        "\"corp\"",
        "write \"https://idp.example\"",
    ),
    ("context.port == 99999", "is never 99999", "8080"),
    ("context.port == 5432", "that port", "8080"),
    (
        "context has actor && context.actor in Role::\"corp|admin\"",
        "in no role",
        "User::",
    ),
];

/// A comparison that never holds makes a policy silent: each is told where it stands, with what would hold.
#[test]
fn a_literal_that_never_comes_is_told_in_its_place() {
    let mut model = with_admin(&[]);
    model.issuers[0].issuer = "https://idp.example".to_owned();
    for (condition, word, hint) in NEVER {
        let text = format!(
            "@id(\"p\") permit(principal, action in Action::\"http\", resource == Service::\"shop/orders\")\nwhen {{ {condition} }};\n"
        );
        let files = file(&text);
        let checked = check(&model, &files).unwrap_or_else(|problems| panic!("{}", shown(&problems)));
        let [warning] = checked.warnings.as_slice() else {
            panic!("{condition}: {:?}", checked.warnings);
        };
        assert!(warning.message.contains(word), "{condition}: {}", warning.message);
        let told = warning.hint.as_deref().unwrap_or_default();
        assert!(told.contains(hint), "{condition}: {told}");
        let marked = text.get(warning.offset..warning.offset + warning.len).unwrap();
        assert!(
            warning.line == 2 && (marked.starts_with('"') || marked.parse::<i64>().is_ok()),
            "{condition}: {marked}"
        );
        assert_eq!(
            load(&model, &files, "shop/orders").unwrap().warnings(),
            checked.warnings
        );
        assert_eq!(load(&model, &files, "shop/web").unwrap().warnings(), []);
    }
}

#[test]
fn a_literal_that_may_come_is_not_told() {
    let mut model = with_admin(&[]);
    model.issuers[0].issuer = "https://idp.example".to_owned();
    let connect = "@id(\"c\") permit(principal, action == Action::\"connect\", resource == Service::\"data/db\") when { context.port == PORT };\n";
    for condition in [
        "context.path == \"/a%20b\"",
        "context.path == \"/\"",
        "context.path == \"*\"",
        "context.path == \"/a/\"",
        "context.path like \"/a b*\"",
        "context.host == \"orders.shop\"",
        "context.host == \"10.0.0.1\"",
        "context.host == \"[::1]\"",
        "context has user && context.user.issuer == \"https://idp.example\"",
        "context has user && context.user.sub == \"nosuch\"",
        "context has user && context.user in Role::\"corp|admin\"",
        "context.port == 8080",
        "context.port > 99999",
        "context.headers has x_region && context.headers.x_region.contains(\"A b\")",
    ] {
        let text = format!(
            "@id(\"p\") permit(principal, action in Action::\"http\", resource == Service::\"shop/orders\") when {{ {condition} }};\n"
        );
        assert_eq!(warned(&model, &text), [], "{condition}");
    }
    let told = |port: &str| {
        check(&model, &file(&connect.replace("PORT", port)))
            .unwrap()
            .warnings
    };
    assert_eq!(told("5432"), []);
    assert!(told("8080")[0].hint.as_deref().unwrap().contains("5432"));
    // A port of another protocol: the policy is about both services.
    let both = connect
        .replace("PORT", "8080")
        .replace("resource == Service::\"data/db\"", "resource");
    let both = check(&model, &file(&both)).unwrap().warnings;
    assert!(both[0].message.contains("it is an http port"), "{both:?}");
    let params = "@id(\"p\") permit(principal, action == Action::\"shop/orders#getOrder\", resource) when { context.params.tenant == TEXT };";
    assert_eq!(warned(&model, &params.replace("TEXT", "\"acme\"")), []);
    let told = warned(&model, &params.replace("TEXT", "\"\""));
    assert!(told[0].1.contains("`context.params.tenant` is never"), "{told:?}");
    // Where a route allows it, such a path may come.
    let text = "@id(\"p\") permit(principal, action in Action::\"http\", resource) when { context.path == \"/a%2Fb\" };";
    let told = |model: &Model| check(model, &file(text)).unwrap().warnings.len();
    assert_eq!(told(&model), 1);
    model.services[1].routes[0].spellings.encoded_slash = true;
    assert_eq!(told(&model), 0);
}

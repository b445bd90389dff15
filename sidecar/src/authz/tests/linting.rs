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
    let other =
        "@id(\"o\") forbid(principal, action in Action::\"OTHER\", resource) when { context.host == \"x\" };";
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
            "when { context.host == \"x\" && (\"/admin\" == context.path || context.tls) }",
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
        ("when { context.host == \"x\" }", false),
    ] {
        let told = warned(&model, &format!("{PERMIT}{}", forbid("http", rest)));
        assert_eq!(told.len(), usize::from(trap), "{rest}: {told:?}");
        assert!(
            told.iter().all(|(_, message)| message.contains("as text")),
            "{told:?}"
        );
    }
}

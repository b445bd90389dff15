use proptest::prelude::*;

use super::*;

fn facts(user: &str, uid: u32, gid: u32, socket: &str) -> Facts {
    Facts {
        user: Fact::Proven(user.into()),
        group: Fact::Proven(format!("g-{gid}").into()),
        ..Facts::new(Fact::Proven(uid), Fact::Proven(gid), socket.into())
    }
}

fn template(path: &str) -> Template {
    Template::parse(&format!("spiffe://td/{path}"), &Host::Name("node-1".into())).unwrap()
}

fn path(template: &Template, facts: &Facts) -> String {
    match template.expand(facts) {
        Expanded::Id(id) => id.path().to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn variables_become_what_was_proven() {
    let facts = facts("alice", 1000, 100, "shop");
    for (text, wanted) in [
        ("a/b", "/a/b"),
        ("host/{host}/user/{unix.user}", "/host/node-1/user/alice"),
        (
            "u/{unix.uid}/{unix.gid}/{unix.group}/{socket}",
            "/u/1000/100/g-100/shop",
        ),
        ("u/x-{unix.uid}.y", "/u/x-1000.y"),
        ("u/{unix.user}/{unix.user}", "/u/alice/alice"),
    ] {
        assert_eq!(path(&template(text), &facts), wanted);
    }
}

#[test]
fn what_is_not_read_is_asked_for_and_what_is_not_proven_is_refused() {
    let bare = Facts::new(Fact::Proven(1), Fact::Unproven("not mapped".into()), "s".into());
    assert_eq!(template("u/{unix.user}").expand(&bare), Expanded::Open(Ask::User));
    assert_eq!(
        template("u/{unix.user}/{systemd.id}").expand(&bare),
        Expanded::Open(Ask::Cgroup)
    );
    let refused = Expanded::Refused(Variable::Gid, "not mapped".into());
    assert_eq!(template("u/{unix.gid}").expand(&bare), refused);
    assert_eq!(
        template("u/{unix.user}/{unix.gid}").expand(&bare),
        refused,
        "and asks for nothing more"
    );
    let alone = Template::parse("spiffe://td/h/{host}", &Host::Unchecked).unwrap();
    assert!(matches!(
        alone.expand(&bare),
        Expanded::Refused(Variable::Host, _)
    ));
}

#[test]
fn an_identity_that_would_be_too_long_is_refused() {
    let long = "x".repeat(1024);
    let facts = facts(&long, 1, 1, "s");
    assert!(matches!(
        template("u/{unix.user}").expand(&facts),
        Expanded::Id(_)
    ));
    assert!(matches!(
        template("u/{unix.user}/{unix.user}").expand(&facts),
        Expanded::Refused(Variable::User, _)
    ));
}

#[test]
fn a_template_knows_which_identities_may_come_of_it() {
    let id = |path: &str| SpiffeId::new(format!("spiffe://td/{path}")).unwrap();
    let user = template("host/{host}/user/{unix.user}");
    assert!(user.may_be(&id("host/node-1/user/alice")));
    for other in [
        "host/node-2/user/alice",
        "host/node-1/user",
        "host/node-1/user/alice/x",
        "host/node-1/unit/a",
    ] {
        assert!(!user.may_be(&id(other)), "{other}");
    }
    assert!(!user.may_be(&SpiffeId::new("spiffe://other/host/node-1/user/alice").unwrap()));
    assert!(!template("u/{unix.uid}").may_be(&id("u/alice")));
    assert!(
        !template("u/a-{unix.user}-b").may_be(&id("u/a-b")),
        "nothing between"
    );
}

const PATHS: &[&str] = &[
    "u/{unix.user}/{unix.uid}/{unix.gid}/{socket}",
    "u/{socket}/x/{unix.gid}/{unix.uid}/{unix.user}",
    "u/a-{unix.user}-z/{unix.uid}.{x}/{unix.gid}/0{socket}",
];

fn all_facts(text: &str) -> Template {
    template(&text.replace(".{x}", ".x"))
}

fn value() -> impl Strategy<Value = String> {
    // What names may look like, what they must not look like, and what they collide on.
    prop_oneof![
        "[a-z.0-9_-]{0,4}",
        "[-./\\\\@%{}a]{1,4}",
        any::<String>(),
        Just(".".to_owned()),
        Just("..".to_owned())
    ]
}

fn any_facts() -> impl Strategy<Value = Facts> {
    (value(), 0..3_u32, 0..3_u32, value())
        .prop_map(|(user, uid, gid, socket)| facts(&user, uid, gid, &socket))
}

proptest! {
    #[test]
    fn two_callers_who_differ_never_get_one_identity(one in any_facts(), other in any_facts(), at in 0..PATHS.len()) {
        let template = all_facts(PATHS[at]);
        if let (Expanded::Id(first), Expanded::Id(second)) = (template.expand(&one), template.expand(&other)) {
            let same = (&one.user, &one.uid, &one.gid, &one.socket) == (&other.user, &other.uid, &other.gid, &other.socket);
            prop_assert_eq!(first == second, same);
        }
    }

    #[test]
    fn what_is_granted_is_a_spiffe_id_in_its_one_form_below_the_fixed_prefix(facts in any_facts(), at in 0..PATHS.len()) {
        let template = all_facts(PATHS[at]);
        if let Expanded::Id(id) = template.expand(&facts) {
            let text = id.to_string();
            prop_assert!(text.starts_with("spiffe://td/u/") && text.len() <= MAX_ID);
            prop_assert!(id.path().split('/').skip(1).all(is_segment));
            prop_assert_eq!(id.path().split('/').count(), template.path().split('/').count());
            prop_assert!(template.may_be(&id), "{} of {}", id, template);
        }
    }

    #[test]
    fn a_proven_name_is_taken_as_it_is_or_refused(name in value()) {
        let facts = facts(&name, 1, 1, "s");
        match template("user/{unix.user}").expand(&facts) {
            Expanded::Id(id) => prop_assert_eq!(id.path(), format!("/user/{name}")),
            Expanded::Refused(Variable::User, _) => prop_assert!(!is_segment(&name) || name.len() > 2000),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn two_templates_that_are_let_into_one_file_never_name_one_identity(
        one in any_facts(), other in any_facts(),
        first in template_text(), second in template_text(),
    ) {
        let (first, second) = (template(&first), template(&second));
        if first != second && !first.may_collide(&second)
            && let (Expanded::Id(a), Expanded::Id(b)) = (first.expand(&one), second.expand(&other)) {
            prop_assert!(a != b || !(first.is_template() || second.is_template()), "{} and {}: {}", first, second, a);
        }
        prop_assert_eq!(first.may_collide(&second), second.may_collide(&first));
    }
}

fn template_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("a".to_owned()),
        Just("ab".to_owned()),
        Just("1".to_owned()),
        Just("{unix.user}".to_owned()),
        Just("a{unix.user}".to_owned()),
        Just("{unix.user}b".to_owned()),
        Just("{unix.uid}".to_owned()),
        Just("{socket}".to_owned()),
    ];
    proptest::collection::vec(part, 1..3).prop_map(|parts| format!("u/{}", parts.join("/")))
}

//! Entries without toil: templates, and `hopguard entry`, which checks, shows, replaces and waits.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::*;

fn template(path: &str, selectors: &str) -> String {
    format!("[[entry]]\nspiffe_id = \"spiffe://mesh.local/{path}\"\n{selectors}\n")
}

fn user_of(uid: u32) -> String {
    let found = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).unwrap();
    found.expect("whoever runs the tests has a name").name
}

fn id(path: &str) -> Value {
    json!(format!("spiffe://mesh.local/{path}"))
}

fn ids(of: &Value) -> Vec<&str> {
    let all = of.as_array().unwrap().iter();
    all.map(|one| one["spiffe_id"].as_str().unwrap()).collect()
}

#[test]
fn a_template_gives_each_user_the_identity_of_its_own_name() {
    let entries = template("host/{host}/user/{unix.user}", "")
        + &template("uid/{unix.uid}/{unix.gid}", "selectors = [\"socket:default\"]")
        + &template("unit/{systemd.id}", "");
    let mut authority = Authority::files(&entries, "1h", "");
    let ca = std::fs::read_to_string(authority.path("ca.toml")).unwrap();
    std::fs::write(authority.path("ca.toml"), format!("host = \"node-7\"\n{ca}")).unwrap();
    authority.run(hopguard_tests::hopguard());
    let gid = nix::unistd::getegid().as_raw();
    let told = first(&authority, &[]);
    let ours = told["ids"].as_array().unwrap();
    assert_eq!(
        ours[0],
        id(&format!("host/node-7/user/{}", user_of(nix_uid()))),
        "{told}"
    );
    assert_eq!(ours[1], id(&format!("uid/{}/{gid}", nix_uid())), "{told}");
    if !is_root() {
        eprintln!("only root can run clients of other uids: that they get names of their own is skipped");
        return;
    }
    let uid = 65_534;
    let theirs = first(&authority, &["--uid", &uid.to_string()]);
    assert_eq!(
        theirs["ids"][0],
        id(&format!("host/node-7/user/{}", user_of(uid))),
        "{theirs}"
    );
    // A uid without a name: the entry that needs one is refused, not skipped; the number is proven.
    let nameless = first(&authority, &["--uid", "4242"]);
    assert_eq!(nameless["ids"][0], id("uid/4242/4242"), "{nameless}");
    authority.logged(&[
        "an entry is refused",
        "{unix.user}",
        "uid 4242 has no name here",
        "hopguard why",
    ]);
}

#[test]
fn a_user_and_a_group_are_selected_by_name() {
    let (user, nobody) = (user_of(nix_uid()), "unix:user:no-such-user-here".to_owned());
    let gid = nix::unistd::getegid();
    let group = nix::unistd::Group::from_gid(gid)
        .unwrap()
        .expect("a group with a name")
        .name;
    let entries = entry("nobody", std::slice::from_ref(&nobody))
        + &entry("user", &[format!("unix:user:{user}")])
        + &entry("group", &[format!("unix:group:{group}")]);
    let authority = Authority::start(&entries);
    assert_eq!(first(&authority, &[])["ids"], json!([id("user"), id("group")]));
    // A user who was deleted keeps nobody from starting; it is told, and no new file may name him.
    authority.logged(&["names nobody", "no-such-user-here", "\"line\":3"]);
    let (code, told) = authority.ask_json(&["entry", "plan"]);
    assert_eq!(code, Some(3), "{told}");
    assert!(
        told["problems"][0]["message"]
            .as_str()
            .unwrap()
            .contains("no-such-user-here"),
        "{told}"
    );
}

#[test]
fn a_plan_says_what_changes_for_whom_and_changes_nothing() {
    let authority =
        Authority::start(&(for_us("a") + &for_us("b") + &entry("c", &["unix:uid:4242".to_owned()])));
    let client = call(&authority, &["--timeout", "120"]);
    client.next();
    let new = for_us("b") + &for_us("d") + &entry("c", &["unix:uid:4243".to_owned()]);
    std::fs::write(authority.path("new.toml"), &new).unwrap();
    let file = authority.path("new.toml");
    let (code, plan) = authority.ask_json(&["entry", "plan", "--file", file.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{plan}");
    assert_eq!(ids(&plan["added"]), ["spiffe://mesh.local/d"]);
    assert_eq!(ids(&plan["removed"]), ["spiffe://mesh.local/a"]);
    assert_eq!(
        plan["changed"][0]["before"]["selectors"],
        json!(["unix:uid:4242"])
    );
    assert_eq!(plan["changed"][0]["after"]["selectors"], json!(["unix:uid:4243"]));
    assert_eq!(plan["open_callers"], 1);
    let [reached] = plan["callers"].as_array().unwrap().as_slice() else {
        panic!("one caller: {plan}")
    };
    assert_eq!(
        (&reached["pid"], &reached["uid"]),
        (&json!(client.pid()), &json!(nix_uid()))
    );
    assert_eq!(
        (&reached["gains"], &reached["loses"]),
        (&json!([id("d")]), &json!([id("a")]))
    );
    assert_eq!(reached["default"], json!({"before": id("a"), "after": id("b")}));
    let text = authority.ask(&["entry", "plan", "--file", file.to_str().unwrap()]);
    let text = String::from_utf8(text.stdout).unwrap();
    for line in [
        "1 added, 1 removed, 1 changed",
        "loses spiffe://mesh.local/a; gains spiffe://mesh.local/d",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!(
        first(&authority, &[])["ids"],
        json!([id("a"), id("b")]),
        "nothing has changed"
    );
    // The file as it lies there.
    let (code, none) = authority.ask_json(&["entry", "plan"]);
    assert_eq!(
        (code, &none["added"], &none["callers"]),
        (Some(0), &json!([]), &json!([])),
        "{none}"
    );
}

#[test]
fn an_applied_file_is_in_force_when_it_says_so_and_keeps_its_mode_and_its_link() {
    let mut authority = Authority::files("", "1h", "");
    let real = authority.path("real.toml");
    std::fs::write(&real, for_us("a")).unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::remove_file(authority.path("entries.toml")).unwrap();
    symlink("real.toml", authority.path("entries.toml")).unwrap();
    authority.run(hopguard_tests::hopguard());
    let new = authority.path("new.toml");
    std::fs::write(&new, for_us("b")).unwrap();
    let apply = |more: &[&str]| {
        let arguments = [&["entry", "apply", "--file", new.to_str().unwrap()], more].concat();
        authority.ask_json(&arguments)
    };
    let (code, refused) = apply(&[]);
    assert_eq!(code, Some(2), "nobody can be asked: {refused}");
    assert!(refused["hint"].as_str().unwrap().contains("--yes"), "{refused}");
    let (code, dry) = apply(&["--dry-run"]);
    assert_eq!(
        (code, ids(&dry["added"])),
        (Some(0), vec!["spiffe://mesh.local/b"])
    );
    assert_eq!(
        std::fs::read_to_string(&real).unwrap(),
        for_us("a"),
        "nothing was changed"
    );

    let client = call(&authority, &["--timeout", "120"]);
    assert_eq!(client.next()["ids"], json!([id("a")]));
    let (code, done) = apply(&["--yes"]);
    assert_eq!(
        (code, &done["applied"], &done["in_force"]),
        (Some(0), &json!(true), &json!(true)),
        "{done}"
    );
    assert_eq!(
        first(&authority, &[])["ids"],
        json!([id("b")]),
        "in force when it says so"
    );
    assert_eq!(
        client.next()["ids"],
        json!([id("b")]),
        "and in streams that were open"
    );
    let found = std::fs::metadata(&real).unwrap();
    assert_eq!((found.mode() & 0o777, found.uid()), (0o640, nix_uid()));
    assert!(
        std::fs::symlink_metadata(authority.path("entries.toml"))
            .unwrap()
            .is_symlink()
    );
    let (code, again) = apply(&["--yes"]);
    assert_eq!(
        (code, &again["applied"], &again["in_force"]),
        (Some(0), &json!(false), &json!(true)),
        "{again}"
    );
    authority.logged(&["entries are in force", "\"added\":1", "\"removed\":1"]);
}

#[test]
fn a_wrong_file_is_not_applied_and_each_problem_has_its_place() {
    let authority = Authority::start(&for_us("a"));
    let new = authority.path("new.toml");
    for (text, line, word) in [
        (
            for_us("b") + "[[entry]]\nspiffe_id = \"spiffe://other/x\"\nselectors = [\"unix:uid:1\"]\n",
            5,
            "trust domain",
        ),
        (
            template("user/{unix.user}", "") + &for_us("user/x"),
            2,
            "other callers",
        ),
        (
            entry("b", &["unix:user:no-such-user-here".to_owned()]),
            3,
            "names nobody",
        ),
        ("[[entry]\n".to_owned(), 1, ""),
    ] {
        std::fs::write(&new, &text).unwrap();
        let (code, told) = authority.ask_json(&["entry", "apply", "--yes", "--file", new.to_str().unwrap()]);
        assert_eq!(code, Some(3), "{text}: {told}");
        let problem = &told["problems"][0];
        assert_eq!(
            (&problem["line"], problem["file"].as_str()),
            (&json!(line), new.to_str()),
            "{told}"
        );
        assert!(problem["message"].as_str().unwrap().contains(word), "{told}");
    }
    assert_eq!(
        std::fs::read_to_string(authority.path("entries.toml")).unwrap(),
        for_us("a")
    );
    assert_eq!(first(&authority, &[])["ids"], json!([id("a")]));
}

#[test]
fn an_identity_is_shown_with_its_entries_svids_and_callers() {
    let entries = "# two lines\n\n".to_owned() + &for_us("a") + &template("user/{unix.user}", "");
    let authority = Authority::start(&entries);
    let client = call(&authority, &["--timeout", "120"]);
    client.next();
    let (code, shown) = authority.ask_json(&["entry", "show", "spiffe://mesh.local/a"]);
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(shown["entries"][0]["line"], 3, "{shown}");
    assert_eq!(
        (
            shown["svids"].as_array().unwrap().len(),
            &shown["callers"][0]["pid"]
        ),
        (1, &json!(client.pid()))
    );
    assert_eq!(shown["callers"][0]["default"], true);
    let name = format!("spiffe://mesh.local/user/{}", user_of(nix_uid()));
    for wanted in ["spiffe://mesh.local/user/{unix.user}", &name] {
        let (_, shown) = authority.ask_json(&["entry", "show", wanted]);
        assert_eq!(shown["entries"][0]["template"], true, "{shown}");
        assert_eq!(shown["svids"][0]["spiffe_id"], json!(name), "{shown}");
        assert_eq!(shown["callers"][0]["has"], json!([name]), "{shown}");
    }
    let (code, unknown) = authority.ask_json(&["entry", "show", "spiffe://mesh.local/b"]);
    assert_eq!(code, Some(1), "{unknown}");
    // An entry that is gone: what was issued for it is still told, while it is valid.
    authority.write_entries(&for_us("b"));
    client.next();
    let (code, gone) = authority.ask_json(&["entry", "show", "spiffe://mesh.local/a"]);
    assert_eq!(
        (code, &gone["entries"], gone["svids"].as_array().unwrap().len()),
        (Some(0), &json!([]), 1),
        "{gone}"
    );
    let (code, list) = authority.ask_json(&["entry", "list"]);
    assert_eq!(
        (code, ids(&list["entries"])),
        (Some(0), vec!["spiffe://mesh.local/b"])
    );
}

#[test]
fn a_file_that_is_refused_now_is_told_beside_the_entries_in_force() {
    let authority = Authority::start(&for_us("a"));
    authority.write_entries("[[entry]]\n");
    authority.logged(&["the entries file is refused"]);
    let (_, list) = authority.ask_json(&["entry", "list"]);
    assert_eq!(ids(&list["entries"]), ["spiffe://mesh.local/a"]);
    assert_eq!(list["problems"][0]["line"], 1, "{list}");
    let (code, plan) = authority.ask_json(&["entry", "plan"]);
    assert_eq!(code, Some(3), "{plan}");
    // Applying puts it right.
    let new = authority.path("new.toml");
    std::fs::write(&new, for_us("b")).unwrap();
    let (code, done) = authority.ask_json(&["entry", "apply", "--yes", "--file", new.to_str().unwrap()]);
    assert_eq!((code, &done["in_force"]), (Some(0), &json!(true)), "{done}");
}

#[test]
fn without_an_authority_the_command_says_so() {
    let authority = Authority::files(&for_us("a"), "1h", "");
    let (code, told) = authority.ask_json(&["entry", "list"]);
    assert_eq!(code, Some(4), "{told}");
    assert!(told["hint"].as_str().unwrap().contains("running"), "{told}");
    assert!(!Path::new(&authority.path("data")).exists());
}

#[test]
fn a_change_of_the_entries_is_in_the_audit_log() {
    let mut authority = Authority::files(&for_us("a"), "1h", "");
    let ca = std::fs::read_to_string(authority.path("ca.toml")).unwrap();
    std::fs::write(authority.path("ca.toml"), format!("audit = \"audit.log\"\n{ca}")).unwrap();
    authority.run(hopguard_tests::hopguard());
    authority.write_entries(&for_us("b"));
    let change = hopguard_tests::eventually(DEADLINE, || {
        let log = std::fs::read_to_string(authority.path("audit.log")).unwrap();
        let lines = log
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut changes = lines.filter(|line| line["event"] == "entries");
        changes.next().ok_or(log.clone())
    });
    let detail = &change.unwrap()["detail"];
    let told = [&detail["added"], &detail["removed"], &detail["changed"]];
    assert_eq!(
        told,
        [&json!([id("b")]), &json!([id("a")]), &json!([])],
        "{detail}"
    );
}

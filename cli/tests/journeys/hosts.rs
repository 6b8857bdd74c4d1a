//! Under which names services and tasks are reached, and whose a host name is.

use serde_json::Value;

use crate::{
    stage::{Stage, eventually, get},
    up::{HOST, Up, serve_cats},
};

const CLUSTER: [&str; 2] = ["--cluster", "allthecats"];

/// The first line of a task's answer names the task, wherever its request came in.
fn answers(up: &Up, host: &str) -> Option<()> {
    get(&up.ingress, host, "/").filter(|answer| answer.status == 200).map(drop)
}

#[test]
fn a_task_of_its_own_has_a_host_name_also_in_the_pool() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 1);
    for launch_type in ["pool", "node"] {
        let run = ["task", "run", "cats:1", "--launch-type", launch_type];
        let said = stage.margay([&run[..], &CLUSTER].concat());
        let task = said.out.trim().to_owned();
        let host = format!("{task}.allthecats.localhost");
        assert!(said.err.contains(&format!("Reach it at http://{host}:")), "{said:?}");
        eventually("the task answers", || answers(&up, &host));
        stage.margay(["task", "stop", &task]).ok();
        eventually("its name is gone", || {
            get(&up.ingress, &host, "/").filter(|answer| answer.status == 404)
        });
    }
    up.end();
    stage.is_empty();
}

#[test]
fn services_have_names_below_a_domain_and_host_names_of_their_own() {
    let stage = Stage::new();
    let up = Up::start_with(&stage, &["--domain", "apps.example"]);
    serve_cats(&stage, &up, 1);
    eventually("the service answers", || answers(&up, "cats.allthecats.apps.example"));
    assert_eq!(get(&up.ingress, HOST, "/").map(|answer| answer.status), Some(404));
    let update =
        |more: &[&str]| stage.margay([&["service", "update", "cats"], &CLUSTER[..], more].concat());
    update(&["--host", "cats.example", "--host", "*.cats.example", "--path", "=/"]).ok();
    eventually("the host is known", || answers(&up, "cats.example"));
    eventually("the wildcard is known", || answers(&up, "www.cats.example"));
    let has_no_service = || {
        let answer = get(&up.ingress, "cats.example", "/x").expect("an answer");
        assert_eq!(answer.status, 404, "the cats have nothing there either");
        String::from_utf8_lossy(&answer.body).contains("this path of the host cats.example")
    };
    assert!(has_no_service());
    let create = |name: &str, more: &[&str]| {
        let create = ["service", "create", name, "--task", "cats:1", "--detach"];
        stage.margay([&create[..], &CLUSTER, more].concat())
    };
    create("rest", &["--host", "cats.example"]).ok();
    eventually("the other paths are known", || (!has_no_service()).then_some(()));
    let listed = stage.margay(["service", "ls"]).ok();
    assert!(
        listed.contains("cats.allthecats.apps.example,cats.example,*.cats.example"),
        "{listed}"
    );
    for (more, want) in [
        (&["--host", "cats.example"][..], "`/` of host `cats.example` is that of service `rest`"),
        (&["--host", "a.b.apps.example"], "is one of the names that services have by themselves"),
        (&["--host", "localhost"], "it needs at least two labels"),
        (&["--host", "http://x.example"], "leave out the scheme"),
        (&["--path", "/x"], "`paths` are of `hosts`"),
        (&["--host", "x.example", "--path", "x"], "is no path of a route"),
        (&["--host", "x.example", "--rate-limit", "fast"], "use a number of requests"),
    ] {
        let said = create("more", more);
        assert!(said.code != 0 && said.err.contains(want), "{more:?}: {said:?}");
    }
    // Its part of the host goes with the service, and with the change.
    stage.margay([&["service", "delete", "rest"], &CLUSTER[..]].concat()).ok();
    create("more", &["--host", "cats.example", "--weight", "1"]).ok();
    update(&["--no-hosts"]).ok();
    eventually("the host has no service", || {
        get(&up.ingress, "x.cats.example", "/").filter(|answer| answer.status == 404)
    });
    up.end();
    stage.is_empty();
}

#[test]
fn a_tenant_has_the_hosts_of_its_domains_and_learns_nothing_of_those_of_others() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 1);
    let (ann, file) = ("ann", stage.path("ann.json").display().to_string());
    let add = ["registry", "user", "add", ann, "--password-stdin"];
    stage.margay_fed(add, "a fine password\n").ok();
    let login = ["login", "-u", ann, "--password-stdin", &up.registry];
    stage.margay_fed(login, "a fine password\n").ok();
    let image = format!("{}/ann/cats:v1", up.registry);
    stage.margay(["tag", "cats", &image]).ok();
    stage.margay(["push", &image]).ok();
    let made = stage.margay(["credential", "create", "ci", "--tenant", ann]).ok();
    std::fs::write(&file, made).expect("a credential");
    let as_ann = |words: &[&str]| stage.margay([words, &["--credential", &file]].concat());
    as_ann(&["cluster", "create", "main"]).ok();
    let definition = format!(
        "family = \"web\"\n[[containers]]\nname = \"app\"\nimage = \"{image}\"\n\
         ports = [{{ container_port = 80 }}]\n"
    );
    let toml = stage.write("web.toml", definition).display().to_string();
    as_ann(&["task", "register", &toml]).ok();
    let create = |name: &str, host: &str| {
        let words = ["service", "create", name, "--task", "web:1", "--cluster", "main", "--detach"];
        as_ann(&[&words[..], &["--launch-type", "pool", "--host", host]].concat())
    };
    let err = create("web", "shop.example").fails(1);
    assert!(err.contains("host `shop.example` is in no domain that this tenant has"), "{err}");
    assert!(err.contains("margay tenant domain grant ann shop.example"), "{err}");
    stage.margay(["tenant", "domain", "grant", ann, "shop.example"]).ok();
    let err = stage.margay(["tenant", "domain", "grant", "bob", "www.shop.example"]).fails(1);
    assert!(err.contains("overlaps `shop.example` of tenant `ann`"), "{err}");
    let update = ["service", "update", "cats", "--host", "taken.shop.example"];
    stage.margay([&update[..], &CLUSTER].concat()).ok();
    let err = create("web", "taken.shop.example").fails(1);
    assert!(err.contains("host `taken.shop.example` is taken"), "{err}");
    assert!(!err.contains("cats") && !err.contains("`me`"), "{err}");
    create("web", "www.shop.example").ok();
    let known = || get(&up.ingress, "www.shop.example", "/").filter(|answer| answer.status != 404);
    eventually("the host is known", known);
    let err = as_ann(&["tenant", "domain", "ls"]).fails(1);
    assert!(err.contains("may not do that") || err.contains("operator"), "{err}");
    stage.margay(["tenant", "domain", "revoke", ann, "shop.example"]).ok();
    eventually("the host is gone with its domain", || {
        get(&up.ingress, "www.shop.example", "/").filter(|answer| answer.status == 404)
    });
    let listed = stage.margay(["tenant", "domain", "ls", "--output", "json"]).ok();
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[0]["domains"].as_array().map(Vec::len), Some(0), "{listed}");
    // The service has it no more, and no change of something else brings it back.
    let inspect = ["service", "inspect", "web", "--cluster", "main"];
    let inspected = as_ann(&inspect).ok();
    assert!(inspected.contains("host `www.shop.example` was taken away"), "{inspected}");
    let update = ["service", "update", "web", "--cluster", "main", "--https=false"];
    as_ann(&update).ok();
    let listed = as_ann(&["service", "ls"]).ok();
    assert!(listed.contains("web.main") && !listed.contains("www.shop.example"), "{listed}");
    assert_eq!(get(&up.ingress, "www.shop.example", "/").map(|answer| answer.status), Some(404));
    up.end();
    stage.is_empty();
}

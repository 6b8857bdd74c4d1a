use super::*;
use crate::{
    RobotScope,
    account::{Account, RobotLimits},
    protocol::Role,
};

const ANY: &str = "pull,push,tag-create,tag-overwrite,delete,administer";
const CHANGES: &str = "pull,push,tag-create,tag-overwrite,delete";
const PUSH: &str = "pull,push,tag-create,tag-overwrite";
const TAGS: &str = "pull,tag-create,tag-overwrite";

/// Users `ann` and `bob`; `acme`, with the teams `dev` (bob), `ci`, and policies of each role.
fn policies() -> PolicyTable {
    let mut table = PolicyTable::default();
    table.set_organisation(&"acme".parse().unwrap(), Some(spec::Timestamp::from_millis(0)));
    table.set_team(&"acme/dev".parse().unwrap(), Some(["bob".parse().unwrap()].into()));
    table.set_team(&"acme/none".parse().unwrap(), Some([].into()));
    for (pattern, subject, roles) in [
        ("acme/*", "acme/dev", &[Role::Pull][..]),
        ("acme/web-*", "acme/dev", &[Role::Push]),
        ("acme/*", "acme/none", &[Role::Admin]),
        ("acme/*", "acme/gone", &[Role::Admin]),
        ("acme/*", "eve", &[Role::Admin]),
        ("acme/api", "bob+ci", &[Role::TagCreate, Role::Delete]),
        ("acme/api", "ann", &[Role::TagOverwrite]),
        ("acme/api", "ann+ro", &[Role::Push]),
        ("ann/shared", "bob", &[Role::Delete]),
        ("ann/team-*", "*", &[Role::TagCreate]),
        ("base-*", "*", &[Role::Push]),
        ("mirror/*", "ann", &[Role::Admin]),
    ] {
        let roles = Some(roles.iter().copied().collect());
        table.set_policy(&pattern.parse().unwrap(), &subject.parse().unwrap(), roles);
    }
    table
}

fn principal(name: &str) -> Principal {
    let (login, scopes) = match name.split_once(' ') {
        None => (name, Scopes::All),
        Some((login, scope)) => (login, only(scope)),
    };
    let robot = |scope, repositories: &[&str]| {
        let repositories = repositories.iter().map(|name| (*name).to_owned()).collect();
        Some(Holder::Robot(RobotLimits { scope, repositories }))
    };
    let holder = match login {
        "-" => return Principal::Anonymous,
        "node" | "node@bob" => {
            let (name, tenant) = ("node".to_owned(), login.split_once('@'));
            let tenant = tenant.map(|(_, tenant)| tenant.parse().unwrap());
            return Principal::Machine { name, minted: 0, scopes, tenant };
        }
        "control-plane" => return Principal::ControlPlane,
        "ann+ro" => robot(RobotScope::Pull, &[]),
        "ann+cats" => robot(RobotScope::Push, &["ann/cats"]),
        "bob+ci" | "acme+ci" => robot(RobotScope::Push, &[]),
        "ann+unknown" => None,
        _ => Some(Holder::User),
    };
    let user = login.split('+').next().unwrap();
    let account = Account { login: login.to_owned(), serial: "1".to_owned() };
    Principal::User { name: user.parse().unwrap(), account, holder, scopes }
}

/// `REPOSITORY:ACTION,ACTION`.
fn only(scope: &str) -> Scopes {
    let (repository, actions) = scope.split_once(':').unwrap();
    let actions = actions.split(',').map(|name| Action::from_name(name).unwrap()).collect();
    Scopes::Only { repositories: vec![(repository.parse().unwrap(), actions)], own: false }
}

/// What a principal may do in each of these repositories, of which `pub` is public.
const REPOSITORIES: [&str; 9] = [
    "ann/cats",
    "ann/shared",
    "ann/team-1",
    "ann/pub",
    "acme/api",
    "acme/web-1",
    "base-1",
    "mirror/x/y",
    "ann",
];

#[test]
fn every_principal_may_do_in_every_repository_what_this_table_says() {
    let table = policies();
    for (name, want) in [
        ("-", ["", "", "", "pull", "", "", "", "", ""]),
        ("ann", [ANY, ANY, ANY, ANY, TAGS, "", PUSH, ANY, ""]),
        ("ann+ro", ["pull", "pull", "pull", "pull", "pull", "", "pull", "", ""]),
        ("ann+cats", [CHANGES, "", "pull,push,tag-create", "pull", "", "", PUSH, "", ""]),
        ("ann+unknown", ["", "", "", "pull", "", "", "", "", ""]),
        ("bob", ["", "pull,delete", "pull,push,tag-create", "pull", "pull", PUSH, PUSH, "", ""]),
        (
            "bob+ci",
            [
                "",
                "",
                "pull,push,tag-create",
                "pull",
                "pull,push,tag-create,delete",
                "",
                PUSH,
                "",
                "",
            ],
        ),
        ("acme+ci", ["", "", "pull,push,tag-create", "pull", CHANGES, CHANGES, PUSH, "", ""]),
        ("eve", ["", "", "pull,push,tag-create", "pull", ANY, ANY, PUSH, "", ""]),
        ("node ann/cats:pull", ["pull", "", "", "pull", "", "", "", "", ""]),
        ("node acme/api:pull,push", ["", "", "", "pull", CHANGES, "", "", "", ""]),
        // For the tasks of a tenant, within the rights of that user.
        ("node@bob acme/web-1:pull", ["", "", "", "pull", "", "pull", "", "", ""]),
        ("node@bob ann/shared:pull", ["", "pull", "", "pull", "", "", "", "", ""]),
        ("node@bob base-1:pull", ["", "", "", "pull", "", "", "pull", "", ""]),
        ("node@bob ann/cats:pull", ["", "", "", "pull", "", "", "", "", ""]),
        ("control-plane", ["", "", "", "pull", "", "", "", "", ""]),
        // A token holds what it was fetched for, within the rights of its holder.
        ("ann ann/cats:pull", ["pull", "", "", "pull", "", "", "", "", ""]),
        (
            "ann ann/cats:push",
            ["push,tag-create,tag-overwrite,delete", "", "", "pull", "", "", "", "", ""],
        ),
        ("ann acme/api:pull,push", ["", "", "", "pull", TAGS, "", "", "", ""]),
        ("bob ann/shared:pull,push", ["", "pull,delete", "", "pull", "", "", "", "", ""]),
        ("bob ann/cats:pull,push,delete", ["", "", "", "pull", "", "", "", "", ""]),
        ("ann+ro ann/cats:pull,push", ["pull", "", "", "pull", "", "", "", "", ""]),
    ] {
        let principal = principal(name);
        for (text, want) in REPOSITORIES.into_iter().zip(want) {
            let repository = text.parse().unwrap();
            let is_public = text == "ann/pub";
            for (is_open, is_read_only) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let situation = Situation {
                    repository: &repository,
                    is_public,
                    is_open,
                    is_read_only,
                    policies: &table,
                };
                for action in Action::ALL {
                    let listed = want.split(',').any(|name| name == action.name());
                    let open = is_open
                        && (action == Action::Pull || name == "-" && action != Action::Administer);
                    let frozen = is_read_only && action != Action::Pull;
                    let decided = decide(&principal, action, &situation);
                    assert_eq!(
                        decided.is_ok(),
                        (listed || open) && !frozen,
                        "{name} {action:?} {text}: {decided:?}, open: {is_open}, \
                         read-only: {is_read_only}"
                    );
                    if let Err(refusal) = decided {
                        let known = listed || open;
                        let in_scope = matches!(refusal, Refusal::InsufficientScope);
                        assert_eq!(
                            refusal == Refusal::ReadOnly,
                            known && frozen,
                            "{name} {action:?} {text}"
                        );
                        assert!(!in_scope || name.contains(' '), "{name} {action:?} {text}");
                        assert_eq!(
                            refusal == Refusal::LoginNeeded,
                            name == "-" && !known,
                            "{name} {action:?} {text}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_right_that_the_token_lacks_is_told_from_a_right_that_the_client_lacks() {
    let table = policies();
    for (name, action, text, want) in [
        ("ann ann/cats:pull", Action::Push, "ann/cats", Refusal::InsufficientScope),
        ("ann ann/cats:pull", Action::Pull, "ann/team-1", Refusal::InsufficientScope),
        ("ann ann/cats:pull", Action::Pull, "bob/dogs", Refusal::NoRole),
        ("bob acme/api:pull", Action::Pull, "acme/web-1", Refusal::InsufficientScope),
        ("node ann/cats:pull", Action::Push, "ann/cats", Refusal::NoRole),
    ] {
        let repository = text.parse().unwrap();
        let situation = Situation {
            repository: &repository,
            is_public: false,
            is_open: false,
            is_read_only: false,
            policies: &table,
        };
        assert_eq!(decide(&principal(name), action, &situation), Err(want), "{name} {text}");
    }
}

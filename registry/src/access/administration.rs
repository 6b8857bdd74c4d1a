//! Which clients may administer what: operators everything, and others what is theirs.

use spec::Tenant;

use super::{
    policy::applies,
    principal::{Principal, Scopes},
};
use crate::{
    account::Holder,
    protocol::{RepositoryPattern, Role},
    storage::PolicyTable,
};

/// What an administrative request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Object {
    /// The registry as a whole.
    Registry,
    /// The robot accounts and teams of an account.
    Account(Tenant),
    /// The password of a user.
    Password(Tenant),
    Repositories(RepositoryPattern),
    /// A list, of which each client sees what it may administer.
    List,
}

/// Whether `principal` may administer `object`.
pub(crate) fn may_administer(
    principal: &Principal,
    object: &Object,
    policies: &PolicyTable,
) -> bool {
    // A token is for pushes and pulls, and a robot account is within the rights of its user.
    let Principal::User { name, holder: Some(Holder::User), scopes: Scopes::All, .. } = principal
    else {
        return false;
    };
    let has_role = |pattern: &RepositoryPattern| {
        policies.administering(pattern).any(|(subject, roles)| {
            roles.contains(&Role::Admin) && applies(subject, principal, policies)
        })
    };
    policies.is_operator(name)
        || match object {
            Object::Registry => false,
            Object::List => true,
            Object::Password(user) => user == name,
            Object::Account(account) => {
                account == name || has_role(&RepositoryPattern::all_of(account))
            }
            Object::Repositories(pattern) => {
                pattern.namespace() == name.as_str() || has_role(pattern)
            }
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        RobotScope,
        account::{Account, RobotLimits},
        protocol::Subject,
    };

    fn policies() -> PolicyTable {
        let mut table = PolicyTable::default();
        table.set_operator(&"root".parse().unwrap(), true);
        table.set_team(&"acme/owners".parse().unwrap(), Some(["bob".parse().unwrap()].into()));
        for (pattern, subject, role) in [
            ("acme/*", "acme/owners", Role::Admin),
            ("acme/web-*", "eve", Role::Admin),
            ("acme/api", "eve", Role::Push),
            ("acme/*", "ann+ci", Role::Admin),
            ("base-*", "eve", Role::Admin),
        ] {
            let (pattern, subject): (_, Subject) =
                (pattern.parse().unwrap(), subject.parse().unwrap());
            table.set_policy(&pattern, &subject, Some([role].into()));
        }
        table
    }

    fn principal(login: &str) -> Principal {
        let name = login.split('+').next().unwrap().parse().unwrap();
        let account = Account { login: login.to_owned(), serial: "1".to_owned() };
        let limits = RobotLimits { scope: RobotScope::Push, repositories: Vec::new() };
        let holder = Some(match login.contains('+') {
            true => Holder::Robot(limits),
            false => Holder::User,
        });
        Principal::User { name, account, holder, scopes: Scopes::All }
    }

    #[test]
    fn an_operator_administers_everything_and_others_what_is_theirs() {
        let table = policies();
        let account = |name: &str| Object::Account(name.parse().unwrap());
        let repositories = |pattern: &str| Object::Repositories(pattern.parse().unwrap());
        let objects = [
            Object::Registry,
            Object::List,
            Object::Password("ann".parse().unwrap()),
            account("ann"),
            account("acme"),
            repositories("ann/*"),
            repositories("ann/cats"),
            repositories("acme/*"),
            repositories("acme/web-1"),
            repositories("acme/web-*"),
            repositories("acme/w*"),
            repositories("acme/api"),
            repositories("base-1"),
            repositories("*"),
        ];
        for (login, want) in [
            ("root", "11111111111111"),
            ("ann", "01110110000000"),
            ("bob", "01001001111100"),
            ("eve", "01000000110010"),
            ("ann+ci", "00000000000000"),
            ("root+ci", "00000000000000"),
        ] {
            let principal = principal(login);
            let got: String = objects
                .iter()
                .map(|object| if may_administer(&principal, object, &table) { '1' } else { '0' })
                .collect();
            assert_eq!(got, want, "{login}: {objects:?}");
        }
    }

    #[test]
    fn neither_a_token_nor_an_account_that_is_not_looked_up_administers() {
        let table = policies();
        let root = principal("root");
        let Principal::User { name, account, holder, .. } = root else { unreachable!() };
        let token = Scopes::Only { repositories: Vec::new(), own: true };
        for principal in [
            Principal::User { name: name.clone(), account: account.clone(), holder, scopes: token },
            Principal::User { name, account, holder: None, scopes: Scopes::All },
            Principal::Anonymous,
            Principal::ControlPlane,
            Principal::Machine {
                name: "root".to_owned(),
                minted: 0,
                scopes: Scopes::All,
                tenant: Some("root".parse().unwrap()),
            },
        ] {
            for object in [Object::Registry, Object::List] {
                assert!(!may_administer(&principal, &object, &table), "{principal:?}");
            }
        }
    }
}

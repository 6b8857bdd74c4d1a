use std::path::Path;

use spec::{Capability, ContainerDefinition, ContainerName, Role, TaskDefinition};

use crate::{
    failure::Advice,
    flags,
    verbs::task::{misread, read_definition},
};

/// Larger than any role.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The lines that a file grants to a container of `image`: those of a task definition, or of a role
/// by itself.
pub fn grants(
    path: &Path,
    image: &str,
    container: Option<&ContainerName>,
) -> anyhow::Result<Vec<Capability>> {
    let named = || format!("cannot read the role `{}`", path.display());
    let text = flags::read_text(path, FILE_BYTES_MAX, named, "no role")?;
    let is_role = |table: toml::Table| table.contains_key("allow");
    if toml::from_str(&text).is_ok_and(is_role) {
        let role = toml::from_str::<Role>(&text).map_err(|error| misread(path, &text, &error))?;
        return Ok(role.allow);
    }
    let definition = read_definition(path)?;
    Ok(definition.grants_of(chosen(&definition, image, container)?))
}

/// The container that is named; otherwise that of the image, and otherwise the only one.
fn chosen<'a>(
    definition: &'a TaskDefinition,
    image: &str,
    name: Option<&ContainerName>,
) -> Result<&'a ContainerDefinition, Advice> {
    let all = &definition.containers;
    let only = |is: &dyn Fn(&ContainerDefinition) -> bool| {
        let mut found = all.iter().filter(|container| is(container));
        found.next().filter(|_| found.next().is_none())
    };
    let found = match name {
        Some(name) => only(&|container| container.name == *name),
        None => only(&|container| container.image == image).or(only(&|_| true)),
    };
    let family = &definition.family;
    found.ok_or_else(|| {
        let names: Vec<String> = all.iter().map(|one| format!("`{}`", one.name)).collect();
        let what = match name {
            Some(name) => format!("`{family}` has no container `{name}`"),
            None => format!("`{family}` has {} containers, and which one is not said", all.len()),
        };
        Advice::new(what).hint(format!("--container NAME, one of {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_by_itself_is_read_and_a_bad_line_in_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("role.toml");
        for (text, want) in [
            ("allow = [\"env:A\"]", Ok(1)),
            ("allow = []", Ok(0)),
            ("allow = [\n\"env:\"]", Err("line 1: `env:` is not a capability")),
            ("allowed = []", Err("unknown field `allowed`")),
        ] {
            std::fs::write(&path, text).unwrap();
            let got = grants(&path, "api:v1", None).map(|lines| lines.len());
            match want {
                Ok(want) => assert_eq!(got.unwrap(), want),
                Err(want) => {
                    let said = got.unwrap_err().to_string();
                    assert!(said.contains(want), "{said}");
                }
            }
        }
    }

    #[test]
    fn the_container_is_named_or_has_the_image_or_is_the_only_one() {
        let containers = |images: &[&str]| {
            let containers = images.iter().map(|image| {
                format!("[[containers]]\nname = \"{image}\"\nimage = \"{image}:v1\"\n")
            });
            let text = format!("family = \"api\"\n{}", containers.collect::<String>());
            toml::from_str::<TaskDefinition>(&text).unwrap()
        };
        for (images, image, name, want) in [
            (&["app"][..], "other:v2", None, Ok("app")),
            (&["app", "side"], "side:v1", None, Ok("side")),
            (&["app", "side"], "side:v1", Some("app"), Ok("app")),
            (&["app", "side"], "other:v1", None, Err("`api` has 2 containers")),
            (&["app"], "app:v1", Some("side"), Err("`api` has no container `side`")),
        ] {
            let definition = containers(images);
            let name = name.map(|name| name.parse().unwrap());
            let got = chosen(&definition, image, name.as_ref());
            match want {
                Ok(want) => assert_eq!(got.unwrap().name.to_string(), want),
                Err(want) => {
                    let said = anyhow::Error::from(got.unwrap_err()).to_string();
                    assert!(said.contains(want), "{said}");
                }
            }
        }
    }
}

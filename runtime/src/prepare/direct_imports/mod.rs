//! A component whose modules call their imports directly.
//!
//! Most imports of a component need the memory of the module that imports them, and that does not
//! exist before the module is instantiated. So wit-component, which nearly every toolchain ends
//! with, makes a second module, the shim: it has a table, filled when everything exists, and a
//! function for each import, which calls what stands in the table. The first module imports those
//! functions, and the engine looks each one up whenever it instantiates the component, which is at
//! every request. Here the first module imports the table alone, and has the functions itself.
//! What a program does stays the same.
//!
//! Absent on purpose: components inside of components, and modules that are instantiated twice.

mod module; // a module with functions in the place of imports
mod outline; // the modules of a component, and what each is given
mod shim; // a module that only calls through its table
#[cfg(test)]
mod tests;

use image::{Sections, leb};
use wasmparser::{BinaryReaderError, Instance, InstantiationArg};

use self::{
    outline::{INSTANCES, Outline},
    shim::Shim,
};

/// Where a module imports the table from. No toolchain gives an import this name.
const TABLE_FROM: &str = "margay:shim";

/// `component` with modules that call their imports directly; `None` when it has no shim that all
/// of them can do without.
///
/// # Errors
/// Where the bytes break off, or are not those of a component.
pub(super) fn direct(component: &[u8]) -> Result<Option<Vec<u8>>, BinaryReaderError> {
    let mut sections = Sections::of(component)?;
    let outline = Outline::of(&sections)?;
    let mut changes = Vec::new();
    for (index, instance) in outline.instances.iter().enumerate() {
        let Instance::Instantiate { module_index, args } = instance else { continue };
        let Some((section, module)) = outline.only_instance_of(*module_index) else { continue };
        let Some((shim_index, shim)) = outline.shim_for(args) else { continue };
        let slot = |from: &str, name: &str| {
            let export = outline.argument(args, from, name)?;
            (export.instance == shim_index).then(|| shim.slots.get(export.name).copied())?
        };
        if let Some(module) = module::direct(module, slot, shim)? {
            changes.push(Change { index, shim_index, section, module });
        }
    }
    if changes.is_empty() {
        return Ok(None);
    }
    let lists = changed_instances(&sections, &changes)?;
    for (section, content) in lists {
        sections.set(section, content);
    }
    for change in changes {
        sections.set(change.section, change.module);
    }
    Ok(Some(sections.to_bytes()))
}

/// A module that is new, and its instance, which is given the shim's too.
struct Change {
    index: usize,
    shim_index: u32,
    section: usize,
    module: Vec<u8>,
}

/// The sections that list instances, with one argument more for those of `changes`.
fn changed_instances(
    sections: &Sections<'_>,
    changes: &[Change],
) -> Result<Vec<(usize, Vec<u8>)>, BinaryReaderError> {
    let (mut lists, mut index) = (Vec::new(), 0);
    for (section, _, content) in sections.iter().filter(|(_, id, _)| *id == INSTANCES) {
        let reader = outline::instances(content)?;
        let mut list = leb(reader.count());
        let mut items = reader.into_iter_with_offsets().collect::<Result<Vec<_>, _>>()?;
        let ends: Vec<_> = items.iter().skip(1).map(|(offset, _)| *offset).collect();
        for ((start, instance), end) in items.drain(..).zip(ends.into_iter().chain([content.len()]))
        {
            match (instance, changes.iter().find(|change| change.index == index)) {
                (Instance::Instantiate { module_index, args }, Some(change)) => {
                    list.extend(instantiate(module_index, &args, change.shim_index));
                }
                _ => list.extend(&content[start..end]),
            }
            index += 1;
        }
        lists.push((section, list));
    }
    Ok(lists)
}

/// An instance as a section has it.
fn instantiate(module: u32, args: &[InstantiationArg<'_>], shim: u32) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(leb(module));
    out.extend(leb(args.len() as u32 + 1));
    let args = args.iter().map(|arg| (arg.name, arg.index));
    for (name, index) in args.chain([(TABLE_FROM, shim)]) {
        out.extend(leb(name.len() as u32));
        out.extend(name.as_bytes());
        out.push(0x12); // an instance
        out.extend(leb(index));
    }
    out
}

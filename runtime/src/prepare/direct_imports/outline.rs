use image::Sections;
use wasmparser::{
    BinaryReader, BinaryReaderError, CanonicalFunction, ComponentAlias,
    ComponentAliasSectionReader, ComponentCanonicalSectionReader, ComponentExternalKind,
    ComponentImportSectionReader, ComponentOuterAliasKind, ComponentTypeRef, ExternalKind,
    Instance, InstanceSectionReader, InstantiationArg,
};

use super::{Shim, TABLE_FROM, shim};

const MODULE: u8 = 1;
pub(super) const INSTANCES: u8 = 2;
const ALIASES: u8 = 6;
const FUNCTIONS: u8 = 8;
const IMPORTS: u8 = 10;

/// An export of an instance of a core module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Export<'a> {
    pub instance: u32,
    pub name: &'a str,
}

/// The core modules of a component, their instances and their functions, by index.
pub(super) struct Outline<'a> {
    /// The section of each, where it has one.
    modules: Vec<Option<(usize, &'a [u8])>>,
    pub instances: Vec<Instance<'a>>,
    /// The export that each function is, where it is one.
    functions: Vec<Option<Export<'a>>>,
    /// Of each instance, if it is one.
    shims: Vec<Option<Shim<'a>>>,
}

pub(super) fn instances(content: &[u8]) -> Result<InstanceSectionReader<'_>, BinaryReaderError> {
    InstanceSectionReader::new(BinaryReader::new(content, 0))
}

impl<'a> Outline<'a> {
    pub fn of(sections: &'a Sections<'_>) -> Result<Self, BinaryReaderError> {
        let mut outline = Self {
            modules: Vec::new(),
            instances: Vec::new(),
            functions: Vec::new(),
            shims: Vec::new(),
        };
        for (index, id, content) in sections.iter() {
            let reader = BinaryReader::new(content, 0);
            match id {
                MODULE => outline.modules.push(Some((index, content))),
                INSTANCES => {
                    for instance in instances(content)? {
                        outline.instances.push(instance?);
                    }
                }
                ALIASES => {
                    for alias in ComponentAliasSectionReader::new(reader)? {
                        outline.alias(&alias?);
                    }
                }
                FUNCTIONS => {
                    for function in ComponentCanonicalSectionReader::new(reader)? {
                        // It makes a function of the component, all others one of a module.
                        if !matches!(function?, CanonicalFunction::Lift { .. }) {
                            outline.functions.push(None);
                        }
                    }
                }
                IMPORTS => {
                    for import in ComponentImportSectionReader::new(reader)? {
                        if matches!(import?.ty, ComponentTypeRef::Module(_)) {
                            outline.modules.push(None);
                        }
                    }
                }
                _ => {}
            }
        }
        outline.shims = outline.instances.iter().map(|it| outline.shim(it)).collect();
        Ok(outline)
    }

    fn alias(&mut self, alias: &ComponentAlias<'a>) {
        match *alias {
            ComponentAlias::CoreInstanceExport {
                kind: ExternalKind::Func | ExternalKind::FuncExact,
                instance_index,
                name,
            } => self.functions.push(Some(Export { instance: instance_index, name })),
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. }
            | ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, .. } => {
                self.modules.push(None);
            }
            ComponentAlias::CoreInstanceExport { .. }
            | ComponentAlias::InstanceExport { .. }
            | ComponentAlias::Outer { .. } => {}
        }
    }

    /// The section of a module that has one instance.
    pub fn only_instance_of(&self, module: u32) -> Option<(usize, &'a [u8])> {
        let of_it = |instance: &&Instance<'_>| match instance {
            Instance::Instantiate { module_index, .. } => *module_index == module,
            Instance::FromExports(_) => false,
        };
        let section = (*self.modules.get(module as usize)?)?;
        (self.instances.iter().filter(of_it).count() == 1).then_some(section)
    }

    /// What an instance with `args` is given for a function that it imports.
    pub fn argument(
        &self,
        args: &[InstantiationArg<'a>],
        from: &str,
        name: &str,
    ) -> Option<Export<'a>> {
        let arg = args.iter().find(|arg| arg.name == from)?;
        let Instance::FromExports(exports) = self.instances.get(arg.index as usize)? else {
            return None;
        };
        let export = exports.iter().find(|export| export.name == name)?;
        let is_function = export.kind == ExternalKind::Func;
        is_function.then(|| self.functions.get(export.index as usize).copied())??
    }

    /// The shim that functions in `args` are of, and its instance.
    pub fn shim_for(&self, args: &[InstantiationArg<'a>]) -> Option<(u32, &Shim<'a>)> {
        if args.iter().any(|arg| arg.name == TABLE_FROM) {
            return None;
        }
        let given = args.iter().filter_map(|arg| self.instances.get(arg.index as usize));
        let exports = given.flat_map(|instance| match instance {
            Instance::FromExports(exports) => &exports[..],
            Instance::Instantiate { .. } => &[],
        });
        let functions = exports.filter(|export| export.kind == ExternalKind::Func);
        let mut functions =
            functions.filter_map(|export| *self.functions.get(export.index as usize)?);
        functions.find_map(|function| {
            let shim = self.shims.get(function.instance as usize)?.as_ref()?;
            Some((function.instance, shim))
        })
    }

    /// An instance that is given nothing may be that of a shim.
    fn shim(&self, instance: &Instance<'a>) -> Option<Shim<'a>> {
        match instance {
            Instance::Instantiate { module_index, args } if args.is_empty() => {
                let (_, module) = (*self.modules.get(*module_index as usize)?)?;
                shim::read(module).ok()?
            }
            Instance::Instantiate { .. } | Instance::FromExports(_) => None,
        }
    }
}

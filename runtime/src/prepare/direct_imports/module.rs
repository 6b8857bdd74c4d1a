use std::convert::Infallible;

use wasm_encoder::{
    CodeSection, EntityType, Function, FunctionSection, ImportSection, Instruction, Module,
    NameMap, NameSection,
    reencode::{Error, Reencode, utils},
};
use wasmparser::{
    BinaryReaderError, CodeSectionReader, CustomSectionReader, FunctionSectionReader,
    ImportSectionReader, Name, Parser, Payload, TypeRef,
};

use super::{
    TABLE_FROM,
    shim::{Shim, Slot},
};

/// `module` with functions in the place of the imports that `slot` knows; `None` when there are
/// none.
pub(super) fn direct(
    module: &[u8],
    slot: impl Fn(&str, &str) -> Option<Slot>,
    shim: &Shim<'_>,
) -> Result<Option<Vec<u8>>, BinaryReaderError> {
    let Some(mut direct) = Direct::of(module, slot, shim)? else { return Ok(None) };
    let mut out = Module::new();
    match direct.parse_core_module(&mut out, Parser::new(0), module) {
        Ok(()) => Ok(Some(out.finish())),
        Err(Error::ParseError(error)) => Err(error),
        // What the encoder cannot write stays as it is.
        Err(_) => Ok(None),
    }
}

/// How a module is written anew. Functions that it defined keep their numbers: those that take the
/// place of imports are put before them, and behind the imports that remain.
struct Direct<'a> {
    /// The imported functions, in order: the type and the slot of those that become functions.
    imported: Vec<Option<(u32, Slot)>>,
    /// The number of each imported function from now on.
    numbers: Vec<u32>,
    /// How many tables are imported already; the shim's comes behind them.
    tables: u32,
    shim: &'a Shim<'a>,
}

impl<'a> Direct<'a> {
    fn of(
        module: &[u8],
        slot: impl Fn(&str, &str) -> Option<Slot>,
        shim: &'a Shim<'a>,
    ) -> Result<Option<Self>, BinaryReaderError> {
        let (mut imported, mut tables, mut has_functions) = (Vec::new(), 0, false);
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        match import.ty {
                            TypeRef::Func(ty) => {
                                let slot = slot(import.module, import.name);
                                imported.push(slot.map(|slot| (ty, slot)));
                            }
                            TypeRef::FuncExact(_) => imported.push(None),
                            TypeRef::Table(_) => tables += 1,
                            TypeRef::Memory(_) | TypeRef::Global(_) | TypeRef::Tag(_) => {}
                        }
                    }
                }
                Payload::CodeSectionStart { .. } => has_functions = true,
                _ => {}
            }
        }
        if !has_functions || imported.iter().all(Option::is_none) {
            return Ok(None);
        }
        let numbers = numbers(&imported);
        Ok(Some(Self { imported, numbers, tables, shim }))
    }

    fn own(&self) -> impl Iterator<Item = (u32, Slot)> {
        self.imported.iter().flatten().copied()
    }
}

/// Imports that remain first, in order, and then those that become functions.
fn numbers(imported: &[Option<(u32, Slot)>]) -> Vec<u32> {
    let remaining = imported.iter().filter(|slot| slot.is_none()).count() as u32;
    let (mut import, mut function) = (0, remaining);
    let mut next = |own: &Option<(u32, Slot)>| {
        let number = if own.is_some() { &mut function } else { &mut import };
        *number += 1;
        *number - 1
    };
    imported.iter().map(&mut next).collect()
}

impl Reencode for Direct<'_> {
    type Error = Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, Error> {
        Ok(self.numbers.get(function as usize).copied().unwrap_or(function))
    }

    fn table_index(&mut self, table: u32) -> Result<u32, Error> {
        Ok(if table < self.tables { table } else { table.saturating_add(1) })
    }

    fn parse_import_section(
        &mut self,
        imports: &mut ImportSection,
        section: ImportSectionReader<'_>,
    ) -> Result<(), Error> {
        let mut functions = 0;
        for import in section.into_imports() {
            let import = import?;
            if let TypeRef::Func(_) | TypeRef::FuncExact(_) = import.ty {
                functions += 1;
                if self.imported[functions - 1].is_some() {
                    continue;
                }
            }
            utils::parse_import(self, imports, import)?;
        }
        let table = self.table_type(self.shim.table_type)?;
        imports.import(TABLE_FROM, self.shim.table, EntityType::Table(table));
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: FunctionSectionReader<'_>,
    ) -> Result<(), Error> {
        for (ty, _) in self.own() {
            functions.function(ty);
        }
        utils::parse_function_section(self, functions, section)
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: CodeSectionReader<'_>,
    ) -> Result<(), Error> {
        for (type_index, slot) in self.own() {
            let mut function = Function::new([]);
            for parameter in 0..slot.parameters {
                function.instruction(&Instruction::LocalGet(parameter));
            }
            function
                .instruction(&Instruction::I32Const(slot.index))
                .instruction(&Instruction::CallIndirect { type_index, table_index: self.tables })
                .instruction(&Instruction::End);
            code.function(&function);
        }
        utils::parse_code_section(self, code, section)
    }

    /// Debugging information tells where in the module its functions were, and goes.
    fn parse_custom_section(
        &mut self,
        module: &mut Module,
        section: CustomSectionReader<'_>,
    ) -> Result<(), Error> {
        match section.name().starts_with(".debug_") {
            true => Ok(()),
            false => utils::parse_custom_section(self, module, section),
        }
    }

    /// In the order of the functions' new numbers. Names of locals are for debuggers.
    fn parse_custom_name_subsection(
        &mut self,
        names: &mut NameSection,
        section: Name<'_>,
    ) -> Result<(), Error> {
        let map = match section {
            Name::Function(map) => map,
            Name::Local(_) | Name::Label(_) => return Ok(()),
            other => return utils::parse_custom_name_subsection(self, names, other),
        };
        let mut functions = Vec::new();
        for naming in map {
            let naming = naming?;
            functions.push((self.function_index(naming.index)?, naming.name));
        }
        functions.sort_unstable();
        let mut map = NameMap::new();
        for (function, name) in functions {
            map.append(function, name);
        }
        names.functions(&map);
        Ok(())
    }
}

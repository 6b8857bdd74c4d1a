use std::collections::HashMap;

use wasmparser::{
    BinaryReaderError, Export, ExternalKind, FunctionBody, Operator, Parser, Payload, TableInit,
    TableType,
};

/// A module that has a table, and functions which call what stands in it.
pub(super) struct Shim<'a> {
    /// By the name of the function.
    pub slots: HashMap<&'a str, Slot>,
    /// The name of the table.
    pub table: &'a str,
    pub table_type: TableType,
}

/// Where in the table stands what a function calls, and how many parameters it hands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub index: i32,
    pub parameters: u32,
}

/// What is read of a module that may be a shim.
#[derive(Default)]
struct Parts<'a> {
    /// How many parameters each type has.
    types: Vec<u32>,
    /// The type of each function.
    functions: Vec<u32>,
    tables: Vec<TableType>,
    exports: Vec<Export<'a>>,
    slots: Vec<Slot>,
}

/// The shim that `module` is, if it does nothing else.
pub(super) fn read(module: &[u8]) -> Result<Option<Shim<'_>>, BinaryReaderError> {
    let mut parts = Parts::default();
    for payload in Parser::new(0).parse_all(module) {
        if !parts.take(payload?)? {
            return Ok(None);
        }
    }
    Ok(parts.shim())
}

impl<'a> Parts<'a> {
    /// Whether a shim may have this part.
    fn take(&mut self, payload: Payload<'a>) -> Result<bool, BinaryReaderError> {
        match payload {
            Payload::TypeSection(section) => {
                for ty in section.into_iter_err_on_gc_types() {
                    self.types.push(ty?.params().len() as u32);
                }
            }
            Payload::FunctionSection(section) => {
                for ty in section {
                    self.functions.push(ty?);
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    let table = table?;
                    if !matches!(table.init, TableInit::RefNull) || table.ty.table64 {
                        return Ok(false);
                    }
                    self.tables.push(table.ty);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    self.exports.push(export?);
                }
            }
            Payload::CodeSectionEntry(body) => match self.slot(&body)? {
                Some(slot) => self.slots.push(slot),
                None => return Ok(false),
            },
            Payload::Version { .. }
            | Payload::CodeSectionStart { .. }
            | Payload::CustomSection(_)
            | Payload::End(_) => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What the next function calls: its parameters, a number, and the call are all that it has.
    fn slot(&self, body: &FunctionBody<'_>) -> Result<Option<Slot>, BinaryReaderError> {
        let ty = self.functions.get(self.slots.len()).copied();
        let Some((ty, parameters)) = ty.and_then(|ty| Some((ty, *self.types.get(ty as usize)?)))
        else {
            return Ok(None);
        };
        if body.get_locals_reader()?.get_count() > 0 {
            return Ok(None);
        }
        let mut operators = body.get_operators_reader()?;
        for parameter in 0..parameters {
            match operators.read()? {
                Operator::LocalGet { local_index } if local_index == parameter => {}
                _ => return Ok(None),
            }
        }
        let Operator::I32Const { value: index } = operators.read()? else { return Ok(None) };
        match (operators.read()?, operators.read()?) {
            (Operator::CallIndirect { type_index, table_index: 0 }, Operator::End)
                if type_index == ty && operators.eof() =>
            {
                Ok(Some(Slot { index, parameters }))
            }
            _ => Ok(None),
        }
    }

    fn shim(self) -> Option<Shim<'a>> {
        let [table_type] = self.tables[..] else { return None };
        let of_kind = |kind| self.exports.iter().filter(move |export| export.kind == kind);
        let table = of_kind(ExternalKind::Table).next()?.name;
        let slots = of_kind(ExternalKind::Func)
            .filter_map(|export| Some((export.name, *self.slots.get(export.index as usize)?)));
        Some(Shim { slots: slots.collect(), table, table_type })
    }
}

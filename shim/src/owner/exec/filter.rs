//! A container's profile of system calls, as the runtime-spec writes it, as programs for the
//! kernel. An OCI runtime makes the same of it for the container's first process.

use std::{collections::BTreeMap, io};

use seccompiler::BpfProgram;
use serde::Deserialize;
use serde_json::{Value, json};

/// The one that is applied last decides about what both refuse.
pub(crate) struct Filter(Vec<BpfProgram>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_errno_ret: u32,
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Vec<Argument>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

impl Filter {
    /// # Errors
    /// What in `profile` has no counterpart here.
    pub(crate) fn of(profile: &Value) -> Result<Self, String> {
        let profile: Profile =
            serde_json::from_value(profile.clone()).map_err(|error| error.to_string())?;
        let (mut allowed, mut refused) = (Vec::new(), BTreeMap::<u32, Vec<Value>>::new());
        for rule in &profile.syscalls {
            let args = rule.args.iter().map(Argument::condition).collect::<Result<Vec<_>, _>>()?;
            for name in &rule.names {
                let mut line = json!({ "syscall": name });
                if !args.is_empty() {
                    line["args"] = args.clone().into();
                }
                match rule.action.as_str() {
                    "SCMP_ACT_ALLOW" => allowed.push(line),
                    "SCMP_ACT_ERRNO" => refused
                        .entry(rule.errno_ret.unwrap_or(profile.default_errno_ret))
                        .or_default()
                        .push(line),
                    other => return Err(format!("the action `{other}` is not known")),
                }
            }
        }
        let errno = |number: u32| json!({ "errno": number });
        let mut programs =
            vec![compiled(allowed, errno(profile.default_errno_ret), "allow".into())?];
        for (number, calls) in refused {
            programs.push(compiled(calls, "allow".into(), errno(number))?);
        }
        Ok(Self(programs))
    }

    /// From here on for this process and all that it starts. Takes either root of the user
    /// namespace or a process that gains no privileges any more, and makes it neither.
    #[expect(unsafe_code, reason = "seccompiler gives up privileges for ever on the way")]
    pub(crate) fn apply(&self) -> io::Result<()> {
        for program in &self.0 {
            let length = u16::try_from(program.len()).map_err(io::Error::other)?;
            let filter = program.as_ptr().cast_mut().cast::<libc::sock_filter>();
            let program = libc::sock_fprog { len: length, filter };
            // SAFETY: instructions in the kernel's own layout, which it only reads.
            let set = unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    0,
                    &raw const program,
                )
            };
            if set != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

impl Argument {
    fn condition(&self) -> Result<Value, String> {
        let (op, value) = match self.op.as_str() {
            "SCMP_CMP_EQ" => (json!("eq"), self.value),
            "SCMP_CMP_NE" => (json!("ne"), self.value),
            "SCMP_CMP_LT" => (json!("lt"), self.value),
            "SCMP_CMP_LE" => (json!("le"), self.value),
            "SCMP_CMP_GT" => (json!("gt"), self.value),
            "SCMP_CMP_GE" => (json!("ge"), self.value),
            "SCMP_CMP_MASKED_EQ" => (json!({ "masked_eq": self.value }), self.value_two),
            other => return Err(format!("the comparison `{other}` is not known")),
        };
        Ok(json!({ "index": self.index, "type": "qword", "op": op, "val": value }))
    }
}

fn compiled(mut calls: Vec<Value>, otherwise: Value, matched: Value) -> Result<BpfProgram, String> {
    let arch = std::env::consts::ARCH.try_into().map_err(|e| format!("{e}"))?;
    loop {
        let text = json!({ "filter": {
            "mismatch_action": otherwise, "match_action": matched, "filter": calls,
        }});
        match seccompiler::compile_from_json(text.to_string().as_bytes(), arch) {
            Ok(mut programs) => return Ok(programs.remove("filter").unwrap_or_default()),
            // The profile names calls of every architecture; a runtime leaves out those that this
            // one does not have.
            Err(error) => {
                let (text, before) = (error.to_string(), calls.len());
                calls.retain(|line| {
                    let name = line["syscall"].as_str().unwrap_or_default();
                    !text.contains(&format!(": {name} for given arch"))
                });
                if calls.len() == before {
                    return Err(text);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::seccomp_container::profile;

    #[test]
    fn the_profile_of_containers_is_understood_whole() {
        let filter = Filter::of(&profile()).unwrap();
        assert_eq!(filter.0.len(), 3, "what is allowed, what answers ENOSYS, and EAFNOSUPPORT");
        assert!(filter.0[0].len() > 300, "{} instructions", filter.0[0].len());
    }

    #[test]
    fn what_has_no_counterpart_is_an_error_and_no_hole() {
        let with = |action: &str, op: &str| {
            json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": [
                { "names": ["read", "no_such_call"], "action": action,
                  "args": [{ "index": 0, "value": 1, "op": op }] },
            ]})
        };
        assert!(Filter::of(&with("SCMP_ACT_ALLOW", "SCMP_CMP_EQ")).is_ok());
        for (action, op, why) in [
            ("SCMP_ACT_TRACE", "SCMP_CMP_EQ", "SCMP_ACT_TRACE"),
            ("SCMP_ACT_ALLOW", "SCMP_CMP_ODD", "SCMP_CMP_ODD"),
        ] {
            let error = Filter::of(&with(action, op)).map(drop).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}

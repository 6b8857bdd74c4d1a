//! The size of a task as a whole, which its containers share, as ECS has it.

use super::TaskDefinition;

/// What does not fit into the size of its task.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SizeProblem {
    #[error(
        "its containers reserve {0} thousandths of a processor together, and `cpu_millis` of the \
         task is {1}: raise that, or lower theirs"
    )]
    Cpu(u64, u32),
    #[error(
        "its containers reserve {0} bytes of memory together, and `memory_bytes` of the task is \
         {1}: raise that, or lower theirs"
    )]
    SoftMemory(u64, u64),
    #[error(
        "the `memory_hard_bytes` of its containers are {0} together, and `memory_bytes` of the \
         task is {1}: raise that, or leave out the limits of some, which share the rest"
    )]
    HardMemory(u64, u64),
}

impl TaskDefinition {
    pub(crate) fn check_size(&self) -> Result<(), SizeProblem> {
        let containers = || self.containers.iter();
        if let Some(whole) = self.cpu_millis {
            let sum: u64 = containers().map(|one| u64::from(one.cpu_millis)).sum();
            if sum > u64::from(whole) {
                return Err(SizeProblem::Cpu(sum, whole));
            }
        }
        let Some(whole) = self.memory_bytes else { return Ok(()) };
        let soft = containers().map(|one| one.memory_soft_bytes).fold(0, u64::saturating_add);
        if soft > whole {
            return Err(SizeProblem::SoftMemory(soft, whole));
        }
        let hard = self.memory_hard_least();
        if hard > whole {
            return Err(SizeProblem::HardMemory(hard, whole));
        }
        Ok(())
    }

    /// Of all containers together. One that names no limit has at least what it reserves.
    fn memory_hard_least(&self) -> u64 {
        let each = self.containers.iter();
        let each = each.map(|one| one.memory_hard_bytes.unwrap_or(one.memory_soft_bytes));
        each.fold(0, u64::saturating_add)
    }

    /// The same with a hard limit of memory for each container where the task has a size: those
    /// that name none share equally what the others leave, beyond what each reserves. All of them
    /// together never have more than the task.
    #[must_use]
    pub fn sized(mut self) -> Self {
        let Some(whole) = self.memory_bytes else { return self };
        let rest = whole.saturating_sub(self.memory_hard_least());
        let open = self.containers.iter().filter(|one| one.memory_hard_bytes.is_none()).count();
        let each = rest / (open.max(1) as u64);
        for container in &mut self.containers {
            let own = container.memory_soft_bytes.saturating_add(each);
            container.memory_hard_bytes.get_or_insert(own);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn task(cpu: u32, memory: u64, containers: &[(u32, u64, Option<u64>)]) -> TaskDefinition {
        let containers: Vec<_> = containers
            .iter()
            .enumerate()
            .map(|(index, (cpu, soft, hard))| {
                serde_json::json!({
                    "name": format!("c{index}"), "image": "cats", "cpu_millis": cpu,
                    "memory_soft_bytes": soft * MIB,
                    "memory_hard_bytes": hard.map(|hard| hard * MIB),
                })
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "family": "cats", "cpu_millis": cpu, "memory_bytes": memory * MIB,
            "containers": containers,
        }))
        .unwrap()
    }

    #[test]
    fn containers_share_the_size_of_their_task_and_never_have_more() {
        for (cpu, memory, containers, want) in [
            (1000, 1024, &[(100, 64, None)][..], Ok(&[1024][..])),
            (1000, 1024, &[(500, 64, None), (500, 64, None)], Ok(&[512, 512])),
            (1000, 1024, &[(100, 64, Some(256)), (100, 64, None)], Ok(&[256, 768])),
            (1000, 1024, &[(100, 512, None), (100, 256, None)], Ok(&[640, 384])),
            (1000, 1024, &[(100, 64, Some(512)), (100, 64, Some(512))], Ok(&[512, 512])),
            (1000, 128, &[(600, 64, None), (500, 64, None)], Err("1100 thousandths")),
            (1000, 100, &[(100, 64, None), (100, 64, None)], Err("bytes of memory together")),
            (1000, 512, &[(1, 64, Some(500)), (1, 64, None)], Err("`memory_hard_bytes` of its")),
        ] {
            let task = task(cpu, memory, containers);
            let checked = task.check().map_err(|error| error.to_string());
            match want {
                Ok(want) => {
                    checked.unwrap();
                    let sized = task.sized();
                    let hard = sized.containers.iter().map(|one| one.memory_hard() / MIB);
                    assert_eq!(hard.collect::<Vec<_>>(), want, "{containers:?}");
                    assert_eq!(sized.clone().sized(), sized, "it is sized once");
                }
                Err(want) => assert!(checked.as_ref().unwrap_err().contains(want), "{checked:?}"),
            }
        }
    }
}

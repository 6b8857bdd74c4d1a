use std::{fmt, time::Duration};

use super::{clock::ClockLevel, files::FileGrant, random::RandomLevel, resolve::Capabilities};
use crate::{
    launch_type::LaunchType,
    limits::{
        LimitOverrides, Limits, NODE_REQUEST_CPU_TIME_MAX, POOL_COMMAND_CPU_TIME_MAX,
        POOL_MEMORY_BYTES_MAX, POOL_MEMORY_HARD_PER_SOFT, POOL_REQUEST_TIME_MAX,
        POOL_REQUESTS_PER_INSTANCE_MAX, POOL_VOLUME_BYTES_DEFAULT, POOL_VOLUME_BYTES_MAX,
    },
    time::print_bytes,
};

/// What a container asks for beside its capabilities. What is left out keeps its default.
#[derive(Debug, Clone, Default)]
pub struct LimitRequest {
    /// Whether it answers requests, rather than running once.
    pub serves: bool,
    /// Memory that it reserves.
    pub memory_soft_bytes: Option<u64>,
    /// Memory that it never exceeds.
    pub memory_bytes_max: Option<u64>,
    /// Processor time of one request, or of a whole command.
    pub cpu_time_max: Option<Duration>,
    /// Wall time of one request, or of a whole command.
    pub wall_time_max: Option<Duration>,
    /// Requests that one instance may answer, by the wish of its image; 1 where there is none.
    pub requests_per_instance: Option<u32>,
    /// The writable layer, where its kind has another default than [`Limits`].
    pub writable_bytes_default: Option<u64>,
    /// Limits beside memory and time.
    pub overrides: LimitOverrides,
}

/// The limits of a container, and what it asked for in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounded {
    /// In force.
    pub limits: Limits,
    /// What was asked for beyond the policy of the launch type.
    pub clamped: Vec<Clamped>,
}

/// Something that was asked for, and the most that there is of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clamped {
    /// In the words of a definition.
    pub asked: String,
    /// Likewise.
    pub most: String,
}

impl fmt::Display for Clamped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`, and the pool gives `{}` at most", self.asked, self.most)
    }
}

/// Applies the policy of a launch type: the last step of what a container gets, after wants and
/// grants have met.
///
/// A node of the tenant's own gives what was asked for. In the shared pool nothing exceeds the
/// pool's policy, whatever a role or a definition says, and what was left open gets the pool's
/// default. The control plane refuses to launch what would be clamped; the node clamps.
pub fn bound(
    launch_type: LaunchType,
    request: &LimitRequest,
    capabilities: &mut Capabilities,
) -> Bounded {
    let mut limits = if request.serves { Limits::for_requests() } else { Limits::for_commands() };
    if let Some(bytes) = request.writable_bytes_default {
        limits.writable_bytes_max = bytes;
    }
    let defaults = limits.clone();
    limits.memory_bytes_max = request.memory_bytes_max.unwrap_or(limits.memory_bytes_max);
    limits.wall_time_max = request.wall_time_max.or(limits.wall_time_max);
    request.overrides.apply(request.serves, &mut limits);
    if let Some(requests) = request.requests_per_instance.filter(|_| request.serves) {
        limits.requests_per_instance_max = requests;
    }
    let mut clamped = Vec::new();
    match launch_type {
        LaunchType::Node => {
            let own = request.serves.then_some(NODE_REQUEST_CPU_TIME_MAX);
            limits.cpu_time_max = request.cpu_time_max.or(own);
        }
        LaunchType::Pool => {
            let most = defaults.cpu_time_max.unwrap_or(POOL_COMMAND_CPU_TIME_MAX);
            let asked = request.cpu_time_max.unwrap_or(most);
            limits.cpu_time_max = Some(asked.min(most));
            if asked > most {
                let line = |time: Duration| format!("cpu_time_max_ms = {}", time.as_millis());
                clamped.push(Clamped { asked: line(asked), most: line(most) });
            }
            clamp_memory(request, &mut limits, &mut clamped);
            clamp_overrides(&defaults, &mut limits, &mut clamped);
            let requests = &mut limits.requests_per_instance_max;
            clamp("reuse", requests, POOL_REQUESTS_PER_INSTANCE_MAX, &mut clamped);
            clamp_times(request, &mut limits, &mut clamped);
            clamp_capabilities(capabilities, &mut clamped);
        }
    }
    Bounded { limits, clamped }
}

/// Memory that is reserved for one tenant is bought with its share; memory beyond it is the
/// node's, and lent.
fn clamp_memory(request: &LimitRequest, limits: &mut Limits, clamped: &mut Vec<Clamped>) {
    let soft = request.memory_soft_bytes.unwrap_or(limits.memory_bytes_max);
    let most = soft.saturating_mul(POOL_MEMORY_HARD_PER_SOFT).min(POOL_MEMORY_BYTES_MAX);
    clamp("memory_hard_bytes", &mut limits.memory_bytes_max, most, clamped);
}

fn clamp_overrides(defaults: &Limits, limits: &mut Limits, clamped: &mut Vec<Clamped>) {
    for (name, value, most) in [
        ("handles_max", &mut limits.handles_max, defaults.handles_max),
        ("concurrency_max", &mut limits.concurrency_max, defaults.concurrency_max),
    ] {
        clamp(name, value, most, clamped);
    }
    for (name, value, most) in [
        (
            "request_body_bytes_max",
            &mut limits.request_body_bytes_max,
            defaults.request_body_bytes_max,
        ),
        ("writable_bytes_max", &mut limits.writable_bytes_max, defaults.writable_bytes_max),
        ("log_bytes_max", &mut limits.log_bytes_max, defaults.log_bytes_max),
    ] {
        clamp(name, value, most, clamped);
    }
}

/// A request that waits holds memory of its node.
fn clamp_times(request: &LimitRequest, limits: &mut Limits, clamped: &mut Vec<Clamped>) {
    let most = POOL_REQUEST_TIME_MAX;
    let mut clamp = |name: &str, value: &mut Duration| {
        let mut seconds = value.as_secs();
        clamp(name, &mut seconds, most.as_secs(), clamped);
        *value = (*value).min(most);
    };
    clamp("idle_seconds_max", &mut limits.idle_time_max);
    if let Some(time) = limits.wall_time_max.as_mut().filter(|_| request.serves) {
        clamp("request_seconds_max", time);
    }
}

fn clamp<T: Copy + Ord + fmt::Display>(
    name: &str,
    value: &mut T,
    most: T,
    clamped: &mut Vec<Clamped>,
) {
    if *value > most {
        let line = |value: T| format!("{name} = {value}");
        clamped.push(Clamped { asked: line(*value), most: line(most) });
        *value = most;
    }
}

/// A clock that stands still while a guest computes is no clock for others' computations, and a
/// volume has a size.
fn clamp_capabilities(capabilities: &mut Capabilities, clamped: &mut Vec<Clamped>) {
    let clock = capabilities.clock.unwrap_or(ClockLevel::Frozen);
    if clock > ClockLevel::Frozen {
        clamped.push(Clamped {
            asked: format!("clock:{}", clock.name()),
            most: format!("clock:{}", ClockLevel::Frozen.name()),
        });
    }
    capabilities.clock = Some(clock.min(ClockLevel::Frozen));
    // The kernel's generator tells nothing about others: the pool gives every level.
    capabilities.random = Some(capabilities.random.unwrap_or(RandomLevel::Secure));
    for grant in &mut capabilities.files {
        let FileGrant { rights, volume: Some(_), max_bytes, .. } = grant else { continue };
        if !rights.write {
            continue;
        }
        let asked = max_bytes.unwrap_or(POOL_VOLUME_BYTES_DEFAULT);
        let most = asked.min(POOL_VOLUME_BYTES_MAX);
        *max_bytes = Some(most);
        if asked > most {
            let line = |bytes| format!("max={}", print_bytes(bytes));
            clamped.push(Clamped { asked: line(asked), most: line(most) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Capability;

    fn capabilities(lines: &[&str]) -> Capabilities {
        lines.iter().map(|line| line.parse::<Capability>().unwrap()).collect()
    }

    #[test]
    fn the_pool_gives_no_more_than_its_policy_and_a_node_what_was_asked_for() {
        for (line, pool, refused) in [
            (
                "clock:fine",
                "clock:frozen",
                "`clock:fine`, and the pool gives `clock:frozen` at most",
            ),
            ("clock:coarse", "clock:frozen", "`clock:coarse`, and the pool"),
            ("clock:frozen", "clock:frozen", ""),
            ("clock:none", "clock:none", ""),
            ("random:none", "random:none", ""),
            ("random:secure", "random:secure", ""),
            ("fs:/a#rw;volume=a", "fs:/a#rw;volume=a;max=1GiB", ""),
            ("fs:/a#rw;volume=a;max=1KiB", "fs:/a#rw;volume=a;max=1KiB", ""),
            ("fs:/a#r;volume=a", "fs:/a#r;volume=a", ""),
            (
                "fs:/a#rw;volume=a;max=1TiB",
                "fs:/a#rw;volume=a;max=10GiB",
                "`max=1TiB`, and the pool gives `max=10GiB` at most",
            ),
        ] {
            let mut on_node = capabilities(&[line]);
            let request = LimitRequest { serves: true, ..LimitRequest::default() };
            assert!(bound(LaunchType::Node, &request, &mut on_node).clamped.is_empty(), "{line}");
            assert_eq!(on_node, capabilities(&[line]));
            let mut in_pool = capabilities(&[line]);
            let clamped = bound(LaunchType::Pool, &request, &mut in_pool).clamped;
            assert!(in_pool.lines().contains(&pool.parse().unwrap()), "{line}: {in_pool:?}");
            let said: Vec<String> = clamped.iter().map(ToString::to_string).collect();
            match refused {
                "" => assert_eq!(said, [""; 0], "{line}"),
                words => assert!(said.len() == 1 && said[0].starts_with(words), "{said:?}"),
            }
        }
        let mut nothing = Capabilities::default();
        bound(LaunchType::Pool, &LimitRequest::default(), &mut nothing);
        assert_eq!(nothing.clock(), ClockLevel::Frozen, "also when no line names one");
    }

    #[test]
    fn processor_time_and_memory_follow_the_launch_type() {
        let ms = Duration::from_millis;
        let command = Some(POOL_COMMAND_CPU_TIME_MAX);
        for (asked, launch_type, serves, want, clamped) in [
            (None, LaunchType::Node, true, Some(ms(10_000)), 0),
            (Some(ms(60_000)), LaunchType::Node, true, Some(ms(60_000)), 0),
            (None, LaunchType::Pool, true, Some(ms(50)), 0),
            (Some(ms(20)), LaunchType::Pool, true, Some(ms(20)), 0),
            (Some(ms(200)), LaunchType::Pool, true, Some(ms(50)), 1),
            (None, LaunchType::Node, false, None, 0),
            (None, LaunchType::Pool, false, command, 0),
            (Some(ms(200)), LaunchType::Pool, false, Some(ms(200)), 0),
            (Some(ms(86_400_000)), LaunchType::Pool, false, command, 1),
        ] {
            let request = LimitRequest { serves, cpu_time_max: asked, ..LimitRequest::default() };
            let got = bound(launch_type, &request, &mut Capabilities::default());
            assert_eq!(got.limits.cpu_time_max, want, "{asked:?} {launch_type:?} {serves}");
            assert_eq!(got.clamped.len(), clamped, "{:?}", got.clamped);
        }
        for (soft, hard, want) in [
            (64u64 << 20, 128u64 << 20, 128u64 << 20),
            (32 << 20, 128 << 20, 64 << 20),
            (1 << 16, 64 << 30, 1 << 17),
            (64 << 30, 64 << 30, POOL_MEMORY_BYTES_MAX),
        ] {
            let request = LimitRequest {
                memory_soft_bytes: Some(soft),
                memory_bytes_max: Some(hard),
                ..LimitRequest::default()
            };
            let pool = bound(LaunchType::Pool, &request, &mut Capabilities::default());
            assert_eq!(pool.limits.memory_bytes_max, want);
            assert_eq!(pool.clamped.is_empty(), want == hard, "{:?}", pool.clamped);
            let node = bound(LaunchType::Node, &request, &mut Capabilities::default());
            assert_eq!(node.limits.memory_bytes_max, hard);
        }
    }

    #[test]
    fn no_limit_of_the_pool_exceeds_its_default() {
        let mut overrides = LimitOverrides::default();
        for line in ["handles=20000", "concurrency=1000", "request-body=1GiB", "writable=1GiB"] {
            overrides.set(line).unwrap();
        }
        overrides.set("log=64KiB").unwrap();
        let request = LimitRequest { serves: true, overrides, ..LimitRequest::default() };
        let node = bound(LaunchType::Node, &request, &mut Capabilities::default());
        assert_eq!((node.limits.handles_max, node.limits.log_bytes_max), (20_000, 64 << 10));
        let pool = bound(LaunchType::Pool, &request, &mut Capabilities::default());
        let defaults = Limits { log_bytes_max: 64 << 10, ..Limits::for_requests() };
        assert_eq!(pool.limits, defaults);
        assert_eq!(pool.clamped.len(), 4, "{:?}", pool.clamped);
    }

    #[test]
    fn an_instance_is_reused_on_a_node_of_the_tenants_own_and_never_in_the_pool() {
        for (wish, serves, launch_type, want, clamped) in [
            (None, true, LaunchType::Node, 1, ""),
            (Some(64), true, LaunchType::Node, 64, ""),
            (Some(64), false, LaunchType::Node, 1, ""),
            (None, true, LaunchType::Pool, 1, ""),
            (Some(1), true, LaunchType::Pool, 1, ""),
            (Some(64), false, LaunchType::Pool, 1, ""),
            (
                Some(64),
                true,
                LaunchType::Pool,
                1,
                "`reuse = 64`, and the pool gives `reuse = 1` at most",
            ),
        ] {
            let request =
                LimitRequest { serves, requests_per_instance: wish, ..LimitRequest::default() };
            let got = bound(launch_type, &request, &mut Capabilities::default());
            assert_eq!(got.limits.requests_per_instance_max, want, "{wish:?} {launch_type:?}");
            let said: Vec<String> = got.clamped.iter().map(ToString::to_string).collect();
            assert_eq!(said.concat(), clamped, "{wish:?} {launch_type:?}");
        }
    }

    #[test]
    fn requests_may_take_as_long_as_the_definition_says_within_the_limit_of_the_pool() {
        let seconds = Duration::from_secs;
        for (asked, serves, launch_type, want, clamped) in [
            (None, true, LaunchType::Node, (Some(seconds(30)), seconds(60)), 0),
            (Some(86_400), true, LaunchType::Node, (Some(seconds(86_400)), seconds(86_400)), 0),
            (Some(300), true, LaunchType::Pool, (Some(seconds(300)), seconds(300)), 0),
            (Some(901), true, LaunchType::Pool, (Some(seconds(900)), seconds(900)), 2),
            (Some(300), false, LaunchType::Node, (None, seconds(300)), 0),
        ] {
            let (request_seconds_max, idle_seconds_max) = (asked, asked);
            let overrides = LimitOverrides {
                request_seconds_max,
                idle_seconds_max,
                ..LimitOverrides::default()
            };
            let request = LimitRequest { serves, overrides, ..LimitRequest::default() };
            let got = bound(launch_type, &request, &mut Capabilities::default());
            let times = (got.limits.wall_time_max, got.limits.idle_time_max);
            assert_eq!(times, want, "{asked:?} {serves} {launch_type:?}");
            assert_eq!(got.clamped.len(), clamped, "{:?}", got.clamped);
        }
    }
}

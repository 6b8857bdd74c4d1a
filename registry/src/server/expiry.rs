//! Which tags and manifests of a repository its rules do not keep.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    time::Duration,
};

use spec::{Digest, Timestamp};

use crate::{
    protocol::{Retention, RetentionRule},
    storage::{Link, Links},
};

/// A tag, as its record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    pub name: String,
    pub digest: Digest,
    pub set: Option<Timestamp>,
}

/// A manifest, as its record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub digest: Digest,
    /// The manifests that it names, if it is an index.
    pub children: Option<Links>,
    pub subject: Option<Digest>,
    pub pushed: Option<Timestamp>,
    pub pulled: Option<Timestamp>,
}

/// What is to go, and what must stay whatever names it.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub tags: Vec<Tag>,
    /// Manifests that go. What they name, and what refers to them, goes with them unless it is
    /// kept.
    pub roots: Vec<Digest>,
    pub kept: HashSet<Digest>,
    /// Tags and manifests that go when they have not been used for the grace time.
    pub waiting: u64,
}

impl Manifest {
    /// When it was pushed or pulled, the last time. Unknown is 1970: a registry from before that
    /// was written down did not delete anything either.
    fn used(&self) -> Timestamp {
        self.pushed.max(self.pulled).unwrap_or_default()
    }
}

/// Decides about one repository. A manifest that was used within `grace` stays, and so do its tags:
/// a client may be about to push an index of it, or to pull what it names.
pub(super) fn judge(
    retention: &Retention,
    tags: &[Tag],
    manifests: &[Manifest],
    now: Timestamp,
    grace: Duration,
) -> Verdict {
    let graph = Graph::of(manifests);
    let in_use = |digest: &Digest| {
        graph.known.get(digest).is_some_and(|manifest| now.since(manifest.used()) < grace)
    };
    let (fallback, tags): (Vec<_>, Vec<_>) =
        tags.iter().partition(|tag| subject_of(&tag.name).is_some());
    let mut verdict = Verdict::default();
    let (mut tagged, mut losing) = (HashSet::new(), HashSet::new());
    let last = Last::of(retention, &tags);
    for tag in tags {
        let expired = !last.keeps(tag, graph.known.get(&tag.digest).copied(), now);
        match expired && !in_use(&tag.digest) {
            true => {
                losing.insert(tag.digest);
                verdict.tags.push(tag.clone());
            }
            false => {
                tagged.insert(tag.digest);
                verdict.waiting += u64::from(expired);
            }
        }
    }
    let about: HashSet<_> = fallback.iter().map(|tag| tag.digest).collect();
    let mut stay = Vec::new();
    for manifest in manifests {
        let digest = manifest.digest;
        let follows = graph.is_named(manifest);
        let expired =
            losing.contains(&digest) || (!follows && is_old(retention, manifest.used(), now));
        match (tagged.contains(&digest), about.contains(&digest), expired) {
            (true, ..) => stay.push(digest),
            (false, true, _) => {} // as its tag does
            (false, false, true) if in_use(&digest) => {
                verdict.waiting += 1;
                stay.push(digest);
            }
            (false, false, true) => verdict.roots.push(digest),
            (false, false, false) if !follows || in_use(&digest) => stay.push(digest),
            (false, false, false) => {} // as what names it does
        }
    }
    graph.reach(stay, &mut verdict.kept);
    judge_fallback(retention, &fallback, &graph, &mut verdict, now, in_use);
    let kept = &verdict.kept;
    verdict.roots.retain(|digest| !kept.contains(digest));
    verdict
}

/// Tags like `sha256-3f….sig` stay for as long as what they are about.
fn judge_fallback(
    retention: &Retention,
    fallback: &[&Tag],
    graph: &Graph<'_>,
    verdict: &mut Verdict,
    now: Timestamp,
    in_use: impl Fn(&Digest) -> bool,
) {
    let (mut left, mut before) = (fallback.to_vec(), usize::MAX);
    // One may be about another.
    while left.len() < before {
        before = left.len();
        left.retain(|tag| {
            let subject = subject_of(&tag.name).expect("it has the form of one");
            let stays = match graph.known.contains_key(&subject) {
                true => verdict.kept.contains(&subject),
                false => !is_old(retention, tag.set.unwrap_or_default(), now),
            };
            if stays || in_use(&tag.digest) {
                graph.reach(vec![tag.digest], &mut verdict.kept);
            }
            !stays && !in_use(&tag.digest)
        });
    }
    for tag in left {
        verdict.tags.push(tag.clone());
        verdict.roots.push(tag.digest);
    }
}

fn is_old(retention: &Retention, used: Timestamp, now: Timestamp) -> bool {
    retention.untagged().is_some_and(|age| now.since(used) >= age)
}

/// Which manifest names which, and refers to which.
struct Graph<'a> {
    known: HashMap<Digest, &'a Manifest>,
    by_link: HashMap<Link, Vec<Digest>>,
    by_subject: HashMap<Digest, Vec<Digest>>,
    named: HashSet<Link>,
}

impl<'a> Graph<'a> {
    fn of(manifests: &'a [Manifest]) -> Self {
        let mut graph = Self {
            known: manifests.iter().map(|one| (one.digest, one)).collect(),
            by_link: HashMap::new(),
            by_subject: HashMap::new(),
            named: HashSet::new(),
        };
        for Manifest { digest, children, subject, .. } in manifests {
            graph.by_link.entry(Link::of(digest)).or_default().push(*digest);
            graph.named.extend(children.iter().flat_map(Links::iter));
            if let Some(subject) = subject {
                graph.by_subject.entry(*subject).or_default().push(*digest);
            }
        }
        graph
    }

    /// Whether an index names it, or it refers to another.
    fn is_named(&self, manifest: &Manifest) -> bool {
        self.named.contains(&Link::of(&manifest.digest))
            || manifest.subject.is_some_and(|subject| self.known.contains_key(&subject))
    }

    /// Adds everything that these manifests name, and that refers to them.
    fn reach(&self, mut left: Vec<Digest>, kept: &mut HashSet<Digest>) {
        while let Some(digest) = left.pop() {
            if !kept.insert(digest) {
                continue;
            }
            left.extend(self.by_subject.get(&digest).into_iter().flatten());
            let children = self.known.get(&digest).and_then(|one| one.children.as_ref());
            for link in children.into_iter().flat_map(Links::iter) {
                left.extend(self.by_link.get(&link).into_iter().flatten());
            }
        }
    }
}

/// The rules, each with the names of the tags that it keeps for their number.
struct Last<'a>(Vec<(&'a RetentionRule, HashSet<&'a str>)>);

impl<'a> Last<'a> {
    fn of(retention: &'a Retention, tags: &[&'a Tag]) -> Self {
        Self(retention.rules.iter().map(|rule| (rule, last_of(rule, tags))).collect())
    }

    fn keeps(&self, tag: &Tag, manifest: Option<&Manifest>, now: Timestamp) -> bool {
        let within = |time: Option<Timestamp>, seconds: Option<u64>| match (time, seconds) {
            (Some(time), Some(seconds)) => now.since(time) <= Duration::from_secs(seconds),
            _ => false,
        };
        let pulled = manifest.and_then(|manifest| manifest.pulled);
        let mut covering = self.0.iter().filter(|(rule, _)| rule.covers(&tag.name)).peekable();
        covering.peek().is_none()
            || covering.any(|(rule, last)| {
                rule.keeps_all()
                    || last.contains(&*tag.name)
                    || within(tag.set, rule.within_seconds)
                    || within(pulled, rule.pulled_within_seconds)
            })
    }
}

fn last_of<'a>(rule: &RetentionRule, tags: &[&'a Tag]) -> HashSet<&'a str> {
    let Some(last) = rule.last else { return HashSet::new() };
    let mut covered: Vec<_> = tags.iter().filter(|tag| rule.covers(&tag.name)).collect();
    covered.sort_by_key(|tag| (Reverse(tag.set), Reverse(&tag.name)));
    covered.iter().take(last as usize).map(|tag| &*tag.name).collect()
}

/// What a tag like `sha256-3f….sig` is about: the fallback of the referrers API, and the scheme of
/// cosign.
///
/// # Spec
/// OCI distribution-spec 1.1, "Referrers Tag Schema".
fn subject_of(tag: &str) -> Option<Digest> {
    let (algorithm, rest) = tag.split_once('-')?;
    let hex = rest.split_once('.').map_or(rest, |(hex, _)| hex);
    format!("{algorithm}:{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000 * DAY;
    const DAY: u64 = 86_400_000;

    fn days_ago(days: u64) -> Option<Timestamp> {
        Some(Timestamp::from_millis(NOW - days * DAY))
    }

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    /// `NAME DAYS`, then `pulled=DAYS`, `names=A,B` or `about=NAME`.
    fn manifest(line: &str) -> Manifest {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap();
        let mut manifest = Manifest {
            digest: digest(name),
            children: None,
            subject: None,
            pushed: days_ago(words.next().unwrap().parse().unwrap()),
            pulled: None,
        };
        for word in words {
            match word.split_once('=').unwrap() {
                ("pulled", days) => manifest.pulled = days_ago(days.parse().unwrap()),
                ("about", name) => manifest.subject = Some(digest(name)),
                (_, names) => {
                    let children: Vec<_> = names.split(',').map(digest).collect();
                    manifest.children = Some(Links::of(&children));
                }
            }
        }
        manifest
    }

    /// `TAG MANIFEST DAYS`.
    fn tag(line: &str) -> Tag {
        let words: Vec<_> = line.split_whitespace().collect();
        let set = days_ago(words[2].parse().unwrap());
        Tag { name: words[0].to_owned(), digest: digest(words[1]), set }
    }

    /// What it is, rules, days of untagged manifests, tags, manifests, and what goes.
    type Case<'a> = (&'a str, Vec<String>, Option<u64>, Vec<&'a str>, Vec<&'a str>, &'a str);

    fn rule(text: &str) -> RetentionRule {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_a_rule_covers_and_none_keeps_goes_with_what_belongs_to_it() {
        let (a, b) = (digest("a").hex(), digest("b").hex());
        let signed = [format!("sha256-{a}.sig sa 30"), format!("sha256-{b}.sig sb 30")];
        let signatures: Vec<&str> = signed.iter().map(String::as_str).collect();
        let last = |n: u32| format!(r#"{{"tags":"*","last":{n}}}"#);
        let within = r#"{"tags":"*","within_seconds":864000}"#.to_owned();
        let pulled = r#"{"tags":"*","pulled_within_seconds":864000}"#.to_owned();
        let versions = r#"{"tags":"v*"}"#.to_owned();
        let dev = r#"{"tags":"dev-*","last":1}"#.to_owned();
        let three = ["v1 a 30", "v2 b 20", "v3 c 5"];
        let images = ["a 30", "b 20", "c 5"];
        let cases: [Case<'_>; 19] = [
            ("no rule", vec![], None, three.into(), images.into(), ""),
            ("the last two", vec![last(2)], None, three.into(), images.into(), "v1 | a"),
            ("more than there are", vec![last(9)], None, three.into(), images.into(), ""),
            ("ten days", vec![within.clone()], None, three.into(), images.into(), "v1 v2 | a b"),
            ("either", vec![last(2), within], None, three.into(), images.into(), "v1 | a"),
            (
                "pulled",
                vec![pulled],
                None,
                three.into(),
                vec!["a 30 pulled=3", "b 20 pulled=15", "c 5"],
                "v2 v3 | b c",
            ),
            ("another pattern", vec![dev.clone()], None, three.into(), images.into(), ""),
            (
                "kept by another rule",
                vec![last(0), versions],
                None,
                vec!["v1 a 30", "x b 20"],
                images[..2].into(),
                "x | b",
            ),
            (
                "one of several tags",
                vec![dev],
                None,
                vec!["dev-1 a 30", "v1 a 30", "dev-2 b 1"],
                images[..2].into(),
                "dev-1 |",
            ),
            (
                "in use",
                vec![last(0)],
                None,
                vec!["v1 a 30", "v2 b 0"],
                vec!["a 30", "b 0"],
                "v1 | a",
            ),
            (
                "used by a pull",
                vec![last(0)],
                None,
                vec!["v1 a 30"],
                vec!["a 30 pulled=0"],
                " | (1)",
            ),
            (
                "an index goes",
                vec![last(0)],
                None,
                vec!["v1 i 30"],
                vec!["i 30 names=a,b", "a 30", "b 30"],
                "v1 | i",
            ),
            (
                "an index stays",
                vec![last(1)],
                Some(0),
                vec!["v1 i 30"],
                vec!["i 30 names=a,b", "a 30", "b 30"],
                "",
            ),
            (
                "shared",
                vec![last(1)],
                None,
                vec!["v1 i 30", "v2 j 9"],
                vec!["i 30 names=a,b", "j 9 names=a", "a 30", "b 30"],
                "v1 | i",
            ),
            (
                "untagged",
                vec![],
                Some(10),
                three.into(),
                vec!["a 30", "b 20", "c 5", "d 30", "e 9", "f 30 pulled=2"],
                " | d",
            ),
            ("untagged for ever", vec![last(9)], None, vec![], vec!["d 300"], ""),
            (
                "a referrer stays",
                vec![],
                Some(0),
                vec!["v1 a 30"],
                vec!["a 30", "s 30 about=a", "t 30 about=gone"],
                " | t",
            ),
            (
                "a referrer is no root",
                vec![last(0)],
                Some(99),
                vec!["v1 a 30"],
                vec!["a 30", "s 30 about=a"],
                "v1 | a",
            ),
            (
                "signatures",
                vec![last(1)],
                None,
                [&["v1 a 30", "v2 b 20"], &signatures[..]].concat(),
                vec!["a 30", "b 20", "sa 30", "sb 20"],
                "v1 SIG | a sa",
            ),
        ];
        for (name, rules, untagged_days, tags, manifests, want) in cases {
            let retention = Retention {
                rules: rules.iter().map(|text| rule(text)).collect(),
                untagged_seconds: untagged_days.map(|days| days * DAY / 1000),
            };
            let tags: Vec<_> = tags.into_iter().map(tag).collect();
            let names: Vec<_> =
                manifests.iter().map(|line| line.split(' ').next().unwrap()).collect();
            let manifests: Vec<_> = manifests.iter().map(|line| manifest(line)).collect();
            let grace = Duration::from_secs(3600);
            let now = Timestamp::from_millis(NOW);
            let got = judge(&retention, &tags, &manifests, now, grace);
            let gone: Vec<_> = got.tags.iter().map(|tag| tag.name.as_str()).collect();
            let gone = gone.join(" ").replace(signed[0].split(' ').next().unwrap(), "SIG");
            let mut roots: Vec<_> = names
                .iter()
                .filter(|name| got.roots.contains(&digest(name)))
                .map(|name| (*name).to_owned())
                .collect();
            if name == "used by a pull" {
                roots.push(format!("({})", got.waiting));
            }
            let want = want.trim_end_matches(" |");
            let text = match roots.is_empty() {
                true => gone,
                false => format!("{gone} | {}", roots.join(" ")),
            };
            assert_eq!(text, want, "{name}");
            let both = got.roots.iter().find(|root| got.kept.contains(root));
            assert_eq!(both, None, "{name}");
        }
    }
}

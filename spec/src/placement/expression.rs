//! Expressions over the attributes of a node: ECS's cluster query language, without its patterns.

use std::{fmt, str::FromStr};

use crate::{
    limits::{NODE_EXPRESSION_BYTES_MAX, NODE_EXPRESSION_DEPTH_MAX},
    name::ServiceName,
    text::{ParseError, written_as_text},
};

/// Something that holds for a node or does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeExpression {
    /// The node has the attribute, and its value compares so with this one.
    Compare(String, Comparison, String),
    /// The value of the attribute is one of these.
    In(String, Vec<String>),
    /// The node has the attribute.
    Exists(String),
    /// It has a task of this service of the same tenant and cluster.
    HasTaskOf(ServiceName),
    /// It does not hold.
    Not(Box<Self>),
    /// Both hold.
    And(Box<Self>, Box<Self>),
    /// At least one holds.
    Or(Box<Self>, Box<Self>),
}

/// How two values compare. Order is that of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The same text.
    Equal,
    /// Another text.
    NotEqual,
    /// Less.
    Less,
    /// Less, or the same.
    LessOrEqual,
    /// More.
    Greater,
    /// More, or the same.
    GreaterOrEqual,
}

/// What an expression asks about a node.
pub trait NodeFacts {
    /// The value of an attribute that the node has.
    fn attribute(&self, name: &str) -> Option<String>;
    /// Whether a task of the service is on it.
    fn has_task_of(&self, service: &ServiceName) -> bool;
}

const COMPARISONS: [(&str, Comparison); 14] = [
    ("==", Comparison::Equal),
    ("=", Comparison::Equal),
    ("equals", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("not_equals", Comparison::NotEqual),
    ("<", Comparison::Less),
    ("less_than", Comparison::Less),
    ("<=", Comparison::LessOrEqual),
    ("less_than_equal", Comparison::LessOrEqual),
    (">", Comparison::Greater),
    ("greater_than", Comparison::Greater),
    (">=", Comparison::GreaterOrEqual),
    ("greater_than_equal", Comparison::GreaterOrEqual),
    ("is", Comparison::Equal),
];

/// Names that ECS and Kubernetes give to what every node has here.
const KNOWN_AS: [(&str, &str); 7] = [
    ("ecs.availability-zone", "zone"),
    ("topology.kubernetes.io/zone", "zone"),
    ("ecs.cpu-architecture", "architecture"),
    ("kubernetes.io/arch", "architecture"),
    ("instanceId", "node"),
    ("host", "node"),
    ("kubernetes.io/hostname", "node"),
];

impl NodeExpression {
    /// The name under which an attribute is known here.
    pub(super) fn attribute_name(text: &str) -> String {
        let name = text.strip_prefix("attribute:").unwrap_or(text);
        let known = KNOWN_AS.iter().find(|(theirs, _)| *theirs == name);
        known.map_or(name, |(_, ours)| ours).to_owned()
    }

    /// Whether it holds for a node.
    pub fn holds(&self, node: &impl NodeFacts) -> bool {
        match self {
            Self::Compare(name, comparison, value) => match node.attribute(name) {
                Some(found) => comparison.holds(&found, value),
                None => *comparison == Comparison::NotEqual,
            },
            Self::In(name, values) => {
                node.attribute(name).is_some_and(|found| values.contains(&found))
            }
            Self::Exists(name) => node.attribute(name).is_some(),
            Self::HasTaskOf(service) => node.has_task_of(service),
            Self::Not(inner) => !inner.holds(node),
            Self::And(one, other) => one.holds(node) && other.holds(node),
            Self::Or(one, other) => one.holds(node) || other.holds(node),
        }
    }

    /// In brackets where it is a part of another one.
    fn part(&self) -> String {
        match self {
            Self::And(..) | Self::Or(..) => format!("({self})"),
            _ => self.to_string(),
        }
    }
}

impl Comparison {
    fn holds(self, found: &str, value: &str) -> bool {
        let numbers = || Some((found.parse::<f64>().ok()?, value.parse::<f64>().ok()?));
        let ordered = |order: fn(&f64, &f64) -> bool| {
            numbers().is_some_and(|(found, value)| order(&found, &value))
        };
        match self {
            Self::Equal => found == value,
            Self::NotEqual => found != value,
            Self::Less => ordered(f64::lt),
            Self::LessOrEqual => ordered(f64::le),
            Self::Greater => ordered(f64::gt),
            Self::GreaterOrEqual => ordered(f64::ge),
        }
    }
}

impl fmt::Display for NodeExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compare(name, comparison, value) => {
                let sign = COMPARISONS.iter().find(|(_, known)| known == comparison);
                write!(f, "{name} {} {}", sign.map_or("==", |(sign, _)| sign), quoted(value))
            }
            Self::In(name, values) => {
                let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
                write!(f, "{name} in [{}]", values.join(", "))
            }
            Self::Exists(name) => write!(f, "{name} exists"),
            Self::HasTaskOf(service) => write!(f, "service == {service}"),
            Self::Not(inner) => write!(f, "not ({inner})"),
            Self::And(one, other) => write!(f, "{} and {}", one.part(), other.part()),
            Self::Or(one, other) => write!(f, "{} or {}", one.part(), other.part()),
        }
    }
}

fn quoted(value: &str) -> String {
    match !value.is_empty() && value.chars().all(is_in_word) && !is_reserved(value) {
        true => value.to_owned(),
        false => format!("\"{value}\""),
    }
}

fn is_in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._:/@-".contains(c)
}

fn is_reserved(word: &str) -> bool {
    ["and", "or", "not", "in", "not_in", "exists"].contains(&word)
}

impl FromStr for NodeExpression {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = |why: &str| {
            let example = "write as in `zone == a and not (disk == slow)`";
            ParseError::about(text, format_args!("is not an expression: {why}; {example}"))
        };
        if text.len() > NODE_EXPRESSION_BYTES_MAX {
            let why = format!("is longer than {NODE_EXPRESSION_BYTES_MAX} bytes");
            return Err(ParseError::about(text, why));
        }
        let tokens = tokens(text).map_err(|why| wrong(&why))?;
        let mut parser = Parser { tokens: &tokens, depth: 0 };
        let parsed = parser.any_of().map_err(|why| wrong(&why))?;
        match parser.tokens.first() {
            None => Ok(parsed),
            Some(token) => Err(wrong(&format!("nothing is expected at `{}`", token.text))),
        }
    }
}

written_as_text!(
    NodeExpression,
    "An expression over the attributes of a node.",
    "zone == eu-1a and not (disk == slow)"
);

/// A word, a sign, or a text in quotes.
#[derive(Debug)]
struct Token {
    text: String,
    is_quoted: bool,
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (taken, is_quoted, next) = if first == '"' || first == '\'' {
            let inner = &rest[1..];
            let end = inner.find(first).ok_or("a quote is not closed")?;
            (&inner[..end], true, &inner[end + 1..])
        } else {
            let end = match first {
                '(' | ')' | '[' | ']' | ',' => 1,
                c if is_in_word(c) => rest.find(|c| !is_in_word(c)).unwrap_or(rest.len()),
                '=' | '!' | '<' | '>' | '&' | '|' => {
                    let two = rest.get(..2).unwrap_or_default();
                    if ["==", "!=", "<=", ">=", "&&", "||"].contains(&two) { 2 } else { 1 }
                }
                other => return Err(format!("`{other}` has no meaning")),
            };
            (&rest[..end], false, &rest[end..])
        };
        tokens.push(Token { text: taken.to_owned(), is_quoted });
        rest = next.trim_start();
    }
    Ok(tokens)
}

struct Parser<'t> {
    tokens: &'t [Token],
    depth: usize,
}

impl Parser<'_> {
    fn take(&mut self, texts: &[&str]) -> bool {
        let is_it = |token: &Token| !token.is_quoted && texts.contains(&token.text.as_str());
        let taken = self.tokens.first().is_some_and(is_it);
        if taken {
            self.tokens = &self.tokens[1..];
        }
        taken
    }

    fn any_of(&mut self) -> Result<NodeExpression, String> {
        let mut all = self.all_of()?;
        while self.take(&["or", "||"]) {
            all = NodeExpression::Or(Box::new(all), Box::new(self.all_of()?));
        }
        Ok(all)
    }

    fn all_of(&mut self) -> Result<NodeExpression, String> {
        let mut one = self.one()?;
        while self.take(&["and", "&&"]) {
            one = NodeExpression::And(Box::new(one), Box::new(self.one()?));
        }
        Ok(one)
    }

    fn one(&mut self) -> Result<NodeExpression, String> {
        self.depth += 1;
        if self.depth > NODE_EXPRESSION_DEPTH_MAX {
            return Err(format!("it has more than {NODE_EXPRESSION_DEPTH_MAX} parts"));
        }
        if self.take(&["not", "!"]) {
            return Ok(NodeExpression::Not(Box::new(self.one()?)));
        }
        if self.take(&["("]) {
            let inner = self.any_of()?;
            return if self.take(&[")"]) { Ok(inner) } else { Err("`)` is missing".to_owned()) };
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<NodeExpression, String> {
        let subject = self.word("the name of an attribute")?;
        let is_service = ["task:group", "service"].contains(&subject.as_str());
        let name = NodeExpression::attribute_name(&subject);
        if self.take(&["exists"]) {
            return Ok(NodeExpression::Exists(name));
        }
        if self.take(&["!exists", "not_exists"]) {
            return Ok(NodeExpression::Not(Box::new(NodeExpression::Exists(name))));
        }
        let negated = self.take(&["not_in"]);
        if negated || self.take(&["in"]) {
            let found = NodeExpression::In(name, self.list()?);
            return Ok(if negated { NodeExpression::Not(Box::new(found)) } else { found });
        }
        let sign = self.tokens.first().filter(|token| !token.is_quoted);
        let sign = sign.and_then(|token| COMPARISONS.iter().find(|(sign, _)| *sign == token.text));
        let Some((_, comparison)) = sign else {
            return Err(format!("a comparison is expected after `{subject}`"));
        };
        self.tokens = &self.tokens[1..];
        let value = self.value()?;
        match (is_service, comparison) {
            (false, _) => Ok(NodeExpression::Compare(name, *comparison, value)),
            (true, Comparison::Equal | Comparison::NotEqual) => {
                let service = value.strip_prefix("service:").unwrap_or(&value);
                let service = service.parse().map_err(|error: ParseError| error.to_string())?;
                let found = NodeExpression::HasTaskOf(service);
                Ok(match comparison {
                    Comparison::NotEqual => NodeExpression::Not(Box::new(found)),
                    _ => found,
                })
            }
            (true, _) => Err("services have no order".to_owned()),
        }
    }

    fn list(&mut self) -> Result<Vec<String>, String> {
        if !self.take(&["["]) {
            return Err("`[` is expected after `in`".to_owned());
        }
        let mut values = vec![self.value()?];
        while self.take(&[","]) {
            values.push(self.value()?);
        }
        if self.take(&["]"]) { Ok(values) } else { Err("`]` is missing".to_owned()) }
    }

    fn value(&mut self) -> Result<String, String> {
        if let Some(token) = self.tokens.first().filter(|token| token.is_quoted) {
            self.tokens = &self.tokens[1..];
            return Ok(token.text.clone());
        }
        self.word("a value")
    }

    fn word(&mut self, what: &str) -> Result<String, String> {
        let is_word = |token: &&Token| {
            !token.is_quoted && token.text.chars().all(is_in_word) && !is_reserved(&token.text)
        };
        match self.tokens.first().filter(is_word) {
            Some(token) => {
                self.tokens = &self.tokens[1..];
                Ok(token.text.clone())
            }
            None => Err(match self.tokens.first() {
                Some(token) => format!("{what} is expected in place of `{}`", token.text),
                None => format!("{what} is missing at its end"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct TestNode;

    impl NodeFacts for TestNode {
        fn attribute(&self, name: &str) -> Option<String> {
            let known =
                [("zone", "a"), ("disk", "fast disk"), ("cpu", "8"), ("architecture", "amd64")];
            known.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        }

        fn has_task_of(&self, service: &ServiceName) -> bool {
            service.as_str() == "web"
        }
    }

    #[test]
    fn expressions_hold_and_print_what_they_parse() {
        for (text, printed, holds) in [
            ("zone == a", "zone == a", true),
            ("zone = b", "zone == b", false),
            ("attribute:ecs.availability-zone equals a", "zone == a", true),
            ("zone != b", "zone != b", true),
            ("missing != b", "missing != b", true),
            ("missing == b", "missing == b", false),
            ("disk == 'fast disk'", "disk == \"fast disk\"", true),
            ("cpu >= 8", "cpu >= 8", true),
            ("cpu > 16", "cpu > 16", false),
            ("cpu < 16", "cpu < 16", true),
            ("zone < 16", "zone < 16", false),
            ("zone in [a, b]", "zone in [a, b]", true),
            ("zone not_in [a,b]", "not (zone in [a, b])", false),
            ("disk exists", "disk exists", true),
            ("gpu exists", "gpu exists", false),
            ("gpu not_exists", "not (gpu exists)", true),
            ("not gpu exists", "not (gpu exists)", true),
            ("!(zone == b)", "not (zone == b)", true),
            (
                "zone == b or cpu == 8 and disk exists",
                "zone == b or (cpu == 8 and disk exists)",
                true,
            ),
            ("(zone == b || zone == a) && cpu == 8", "(zone == b or zone == a) and cpu == 8", true),
            ("task:group == service:web", "service == web", true),
            ("service != web", "not (service == web)", false),
            ("kubernetes.io/arch == amd64", "architecture == amd64", true),
        ] {
            let parsed: NodeExpression = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(parsed.to_string(), printed, "{text}");
            assert_eq!(parsed.holds(&TestNode), holds, "{text}");
            assert_eq!(printed.parse::<NodeExpression>().unwrap(), parsed, "{printed}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_where_it_goes_wrong() {
        let deep = format!("{}zone == a", "not ".repeat(40));
        let long = format!("zone == {}", "a".repeat(2000));
        for (text, want) in [
            ("", "the name of an attribute is missing at its end"),
            ("zone", "a comparison is expected after `zone`"),
            ("zone ==", "a value is missing at its end"),
            ("zone == a b", "nothing is expected at `b`"),
            ("(zone == a", "`)` is missing"),
            ("zone in a", "`[` is expected after `in`"),
            ("zone in [a", "`]` is missing"),
            ("zone == 'a", "a quote is not closed"),
            ("zone == a; rm", "`;` has no meaning"),
            ("and == a", "the name of an attribute is expected in place of `and`"),
            ("service < web", "services have no order"),
            ("service == WEB", "cannot name a service"),
            (&deep, "it has more than 32 parts"),
            (&long, "is longer than 1024 bytes"),
        ] {
            let error = text.parse::<NodeExpression>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}

//! Blocks begin with `{{if}}`, `{{range}}`, `{{with}}` and end with `{{end}}`. The library takes
//! the end of the text for the end of every block; Go does not.

use crate::failure::{Advice, USAGE_ERROR};

/// Blocks within blocks: deeper than any template is.
const DEPTH_MAX: usize = 100;

/// # Errors
/// Names the column of a block without an end, and of an end without a block.
pub fn check(text: &str) -> Result<(), Advice> {
    let mut open: Vec<(usize, &str)> = Vec::new();
    let mut offset = 0;
    while let Some(start) = text[offset..].find("{{").map(|start| offset + start) {
        let body = &text[start + 2..];
        let length = action_length(body);
        let inside = body[..length].trim_start_matches("- ").trim_start();
        let word = inside.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        match word {
            "if" | "range" | "with" | "block" | "define" => open.push((start, word)),
            "end" if open.pop().is_none() => {
                return Err(wrong(text, start, "{{end}} ends no block"));
            }
            _ => {}
        }
        if open.len() > DEPTH_MAX {
            return Err(wrong(text, start, "blocks are too deep in each other"));
        }
        offset = (start + 2 + length + 2).min(text.len());
    }
    match open.pop() {
        Some((start, word)) => {
            Err(wrong(text, start, &format!("{{{{{word}}}}} has no {{{{end}}}}")))
        }
        None => Ok(()),
    }
}

/// Up to the `}}` that is in no quotes and no comment.
fn action_length(body: &str) -> usize {
    let comment = body.trim_start_matches("- ").trim_start();
    if comment.starts_with("/*") {
        return body.find("*/").map_or(body.len(), |end| end + "*/".len());
    }
    let (mut quote, mut escaped) = (None, false);
    for (place, char) in body.char_indices() {
        match quote {
            None if body[place..].starts_with("}}") => return place,
            None if matches!(char, '"' | '`' | '\'') => quote = Some(char),
            Some(end) if char == end && !escaped => quote = None,
            _ => {}
        }
        escaped = char == '\\' && quote != Some('`') && !escaped;
    }
    body.len()
}

fn wrong(text: &str, place: usize, what: &str) -> Advice {
    let column = text[..place].chars().count() + 1;
    Advice::new(format!("`--format`: column {column}: {what}"))
        .hint("a field is written {{.Name}}, a block ends with {{end}}")
        .code(USAGE_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_has_an_end() {
        for (text, want) in [
            ("{{if .A}}x{{else}}y{{end}}", None),
            ("{{- range .A -}}{{with .B}}{{end}}{{- end -}}", None),
            ("{{println \"}}{{if\"}}", None),
            ("{{/* {{if */}}", None),
            ("{{.A", None),
            ("{{if .A}}x", Some("`--format`: column 1: {{if}} has no {{end}}")),
            (
                "ä{{range .A}}{{if .B}}{{end}}",
                Some("`--format`: column 2: {{range}} has no {{end}}"),
            ),
            ("x{{end}}", Some("`--format`: column 2: {{end}} ends no block")),
        ] {
            let got = check(text).err().map(|error| error.to_string());
            assert_eq!(got.as_deref(), want, "{text}");
        }
        let deep = "{{if .A}}".repeat(DEPTH_MAX + 1);
        assert!(check(&deep).unwrap_err().to_string().contains("too deep"));
    }
}

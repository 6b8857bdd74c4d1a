use answer::query_value;
use serde::Deserialize;

use crate::book::Adoption;

/// Longer names exist; the page does not fit them.
const NAME_CHARS_MAX: usize = 60;

#[derive(Deserialize)]
struct Form {
    name: String,
    cat: String,
}

/// Parses an adoption, or says in a sentence what is wrong.
pub fn parse(body: &[u8], json: bool) -> Result<Adoption, String> {
    let form = if json { from_json(body)? } else { from_form(body)? };
    Ok(Adoption::now(checked("name", &form.name)?, checked("cat", &form.cat)?))
}

fn from_json(body: &[u8]) -> Result<Form, String> {
    serde_json::from_slice(body)
        .map_err(|error| format!("send {{\"name\": …, \"cat\": …}} ({error})."))
}

fn from_form(body: &[u8]) -> Result<Form, String> {
    let text = std::str::from_utf8(body).map_err(|_| "this is not UTF-8.".to_owned())?;
    let value =
        |key: &str| query_value(text, key).ok_or_else(|| format!("the field `{key}` is missing."));
    Ok(Form { name: value("name")?, cat: value("cat")? })
}

fn checked(field: &str, text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.chars().count() {
        0 => Err(format!("the field `{field}` is empty.")),
        count if count > NAME_CHARS_MAX => {
            Err(format!("the field `{field}` has more than {NAME_CHARS_MAX} letters."))
        }
        _ if text.chars().any(char::is_control) => {
            Err(format!("the field `{field}` holds control characters."))
        }
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_names_a_person_and_a_cat() {
        for (body, json, want) in [
            ("name=Ada+L&cat=Pixel", false, Ok(("Ada L", "Pixel"))),
            (r#"{"name":"Ada","cat":"Pixel"}"#, true, Ok(("Ada", "Pixel"))),
            ("name=Ada", false, Err("the field `cat` is missing.")),
            ("name=+&cat=Pixel", false, Err("the field `name` is empty.")),
            ("name=a%0ab&cat=Pixel", false, Err("the field `name` holds control characters.")),
        ] {
            let got = parse(body.as_bytes(), json).map(|adoption| (adoption.name, adoption.cat));
            let want =
                want.map(|(name, cat)| (name.to_owned(), cat.to_owned())).map_err(str::to_owned);
            assert_eq!(got, want, "reading {body}");
        }
    }
}

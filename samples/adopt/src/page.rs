use answer::escape_html;

use crate::book::{Book, Closed};

const TOP: &str = include_str!("page.html");
const MARK: &str = "<!-- the book -->";

/// The drawing that `path` names: the same ones as in the `cats` image.
pub fn picture(path: &str) -> Option<&'static str> {
    Some(match path {
        "/cats/margot.svg" => include_str!("../../cats/www/cats/margot.svg"),
        "/cats/nimbus.svg" => include_str!("../../cats/www/cats/nimbus.svg"),
        "/cats/inky.svg" => include_str!("../../cats/www/cats/inky.svg"),
        "/cats/tostada.svg" => include_str!("../../cats/www/cats/tostada.svg"),
        "/cats/pixel.svg" => include_str!("../../cats/www/cats/pixel.svg"),
        "/cats/duchess.svg" => include_str!("../../cats/www/cats/duchess.svg"),
        _ => return None,
    })
}

/// The page, with the book as it is now.
pub fn page(book: &Result<Book, Closed>) -> String {
    TOP.replacen(MARK, &written(book), 1)
}

fn written(book: &Result<Book, Closed>) -> String {
    let book = match book {
        Ok(book) => book,
        Err(closed) => {
            return format!(
                "<p class=\"closed\">The book is closed: {}</p>",
                escape_html(&closed.to_string())
            );
        }
    };
    let lines: Vec<String> = book
        .adoptions()
        .iter()
        .rev()
        .map(|adoption| {
            format!(
                "<li><b>{}</b> went home with {}</li>",
                escape_html(&adoption.cat),
                escape_html(&adoption.name)
            )
        })
        .collect();
    match lines.as_slice() {
        [] => "<p>Nobody yet. The first page is still white.</p>".to_owned(),
        _ => format!("<ol reversed>{}</ol>", lines.concat()),
    }
}

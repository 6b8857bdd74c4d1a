//! Flags of which an empty value counts as none, as Docker has it: scripts write `--name "$NAME"`.

/// The value of such a flag, when it is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given<T>(Option<T>);

impl<T: Clone> Given<T> {
    pub fn get(&self) -> Option<&T> {
        self.0.as_ref()
    }

    pub fn of(flag: Option<&Self>) -> Option<T> {
        flag.and_then(Self::get).cloned()
    }
}

/// The parser of such a flag, with `parse` for what is not empty.
pub fn unless_empty<T, E>(
    parse: impl Fn(&str) -> Result<T, E> + Clone,
) -> impl Fn(&str) -> Result<Given<T>, E> + Clone {
    move |text| match text.is_empty() {
        true => Ok(Given(None)),
        false => parse(text).map(|value| Given(Some(value))),
    }
}

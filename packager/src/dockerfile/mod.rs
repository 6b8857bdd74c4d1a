pub(crate) mod expansion; // variables and quotes
pub(crate) mod variables; // what a name stands for
pub(crate) mod duration; // `1m30s`

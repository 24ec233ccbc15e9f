//! The name of a store.
//!
//! A name is checked wherever one enters: in the API, in records, in small files. It never contains
//! `/`, which ends it in the keys of rows.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// The name of a store, a part of the key space: 1 to 64 of `A-Z a-z 0-9 _ -`. Cheap to clone.
///
/// ```
/// use lithdb_state::StoreName;
/// assert_eq!(StoreName::new("bank")?.as_str(), "bank");
/// assert!(StoreName::new("bank/alice").is_err());
/// # Ok::<(), lithdb_state::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreName(Arc<str>);

impl StoreName {
    /// The maximum number of characters.
    pub const MAX_LEN: usize = 64;

    /// Validates a name.
    ///
    /// # Errors
    /// `InvalidArgument` if it is empty, too long, or has another character.
    pub fn new(name: &str) -> Result<Self> {
        match problem(name) {
            None => Ok(Self(name.into())),
            Some(what) => {
                let message = format!("store name {name:?}: {what}");
                Err(Error::new(ErrorKind::InvalidArgument, message))
            }
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why `name` is not the name of a store: what was expected, and what was found.
pub(crate) fn problem(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > StoreName::MAX_LEN {
        let (max, found) = (StoreName::MAX_LEN, name.len());
        return Some(format!("expected 1 to {max} characters, found {found}"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let bad = name.chars().find(|&c| !allowed(c))?;
    Some(format!("expected letters, digits, '_' and '-', found {bad:?}"))
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for StoreName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<String> for StoreName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(&name)
    }
}

impl From<StoreName> for String {
    fn from(name: StoreName) -> Self {
        name.0.as_ref().to_owned()
    }
}

#[cfg(test)]
#[path = "store_name_tests.rs"]
mod tests;

//! Fits the budgets of a database (descriptors, mappings, write buffers) to the process limits.
//! Called when a database is opened or its repair is planned.

use std::sync::{Arc, Weak};

use lithdb_env::{
    Budgets, Env, Error, ErrorKind, Reclaim, Result, max_map_count, raise_file_limit,
};
use lithdb_segment::HandleCache;

use crate::options::{Components, DbOptions};

/// Minimum descriptor budget, plus a few per root: concurrent operations need them.
const MIN_FILES: u64 = 32;
const MIN_FILES_PER_ROOT: u64 = 4;
/// Minimum mapping budget.
const MIN_MAPS: u64 = 16;

/// The environment of a database, with its budgets enforced, and the cache of its open files. An
/// exhausted budget reclaims from the cache.
pub(crate) fn budgeted_env(
    options: &DbOptions,
    components: &Components,
) -> Result<(Env, Arc<HandleCache>)> {
    let least = MIN_FILES + MIN_FILES_PER_ROOT * options.roots.len() as u64;
    let mut files = (options.max_open_files as u64).max(least);
    let mut maps = (options.max_mappings as u64).max(MIN_MAPS);
    let env = match &components.env {
        Some(env) => env.clone(),
        None => {
            (files, maps) = clamp_to_process(files, least, maps)?;
            Env::os(options.io_threads)?
        }
    };
    let env = env.with_budgets(Budgets::new(files, maps, options.write_buffer_bytes));
    let handles = Arc::new(HandleCache::new(options.max_open_files));
    let idle: Arc<dyn Reclaim> = Arc::clone(&handles) as _;
    let idle: Weak<dyn Reclaim> = Arc::downgrade(&idle);
    env.budgets.files.register_reclaim(Weak::clone(&idle));
    env.budgets.maps.register_reclaim(idle);
    Ok((env, handles))
}

/// Raises the soft descriptor limit to the hard one, and clamps the budgets to the process limits.
fn clamp_to_process(files: u64, least: u64, maps: u64) -> Result<(u64, u64)> {
    let (before, limit) = raise_file_limit().map_err(|e| {
        Error::with_source(ErrorKind::Io, format!("raise the limit of open files: {e}"), e)
    })?;
    if before != limit {
        tracing::info!(?before, now = ?limit, "raised the process's limit of open files (RLIMIT_NOFILE)");
    }
    let files = match limit {
        Some(limit) => clamp_budget("max_open_files", files, least, limit, "ulimit -n")?,
        None => files,
    };
    let maps = match max_map_count() {
        Ok(limit) => {
            clamp_budget("max_mappings", maps, MIN_MAPS, limit, "sysctl vm.max_map_count")?
        }
        Err(error) => {
            // Without /proc the limit is unknown; then only the budget applies.
            tracing::warn!(%error, "cannot read vm.max_map_count");
            maps
        }
    };
    Ok((files, maps))
}

/// Clamps a budget so that a quarter of the limit is left to the rest of the process.
fn clamp_budget(option: &str, wanted: u64, least: u64, limit: u64, remedy: &str) -> Result<u64> {
    let most = limit - limit / 4;
    if most < least {
        let needed = 4 * (least - 1) / 3 + 1;
        let message = format!(
            "{option}: a database needs at least {least} and uses at most three quarters of the process limit of {limit}; raise `{remedy}` to at least {needed}"
        );
        return Err(Error::new(ErrorKind::Exhausted, message));
    }
    if wanted > most {
        tracing::warn!(
            option,
            wanted,
            limit,
            allowed = most,
            "reduced to fit the process limit; raise `{remedy}`"
        );
    }
    Ok(wanted.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_leaves_a_quarter_to_the_process_or_is_refused() {
        assert_eq!(clamp_budget("max_open_files", 512, 36, 1024, "ulimit -n").unwrap(), 512);
        assert_eq!(clamp_budget("max_open_files", 4096, 36, 1024, "ulimit -n").unwrap(), 768);
        for (least, needed) in [(36, 47), (40, 53), (44, 58), (48, 63)] {
            let refused =
                clamp_budget("max_open_files", 512, least, needed - 1, "ulimit -n").unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Exhausted);
            let expected = format!("raise `ulimit -n` to at least {needed}");
            assert!(refused.to_string().contains(&expected), "{refused}");
            assert_eq!(
                clamp_budget("max_open_files", 512, least, needed, "ulimit -n").unwrap(),
                least
            );
        }
    }
}

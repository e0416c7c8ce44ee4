//! What may be said of what is logged.

use std::str::FromStr;

use tracing_subscriber::filter::LevelFilter;

/// The parts of the program that log something.
const TARGETS: [&str; 11] = [
    "noised",
    "noised_proto",
    "noised_server",
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "tokio",
    "tokio_util",
    "tonic",
    "tower",
];

/// Refuses a filter that the log's library takes and that would leave the log empty: to the library any word
/// is the name of a part of some program.
pub(super) fn check_filter(filter: &str) -> Result<(), String> {
    let allowed = || {
        format!(
            "write a level (off, error, warn, info, debug, trace), or levels of parts of the program such as \
             info,noised_server=debug; the parts are {}",
            TARGETS.join(", ")
        )
    };
    for directive in filter.split(',').map(str::trim) {
        if directive.is_empty() {
            return Err(format!("must not have an empty part, found `{filter}`: {}", allowed()));
        }
        // `target[span{field=value}]=level`, any part of which may be missing.
        let target = directive.split(['=', '[']).next().unwrap_or_default();
        let root = target.split("::").next().unwrap_or_default();
        let known = TARGETS.contains(&root) || (root.is_empty() && directive.starts_with('['));
        if !known && LevelFilter::from_str(directive).is_err() {
            return Err(format!("`{directive}` is no level and of no part of the program: {}", allowed()));
        }
    }
    tracing_subscriber::EnvFilter::try_new(filter)
        .map(drop)
        .map_err(|error| format!("`{filter}` is no filter ({error}): {}", allowed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_says_what_is_logged() {
        for filter in [
            "off",
            "info",
            "WARN",
            "trace",
            "noised_server",
            "noised_server=debug",
            "info,h2=off",
            "warn,noised_server::serve=trace",
            "[span]=info",
            "noised_server[session]=debug",
        ] {
            assert_eq!(check_filter(filter), Ok(()), "{filter}");
        }
        for (filter, found) in [
            ("", "empty part"),
            (",", "empty part"),
            ("info,", "empty part"),
            ("nonsense", "`nonsense`"),
            ("inf", "`inf`"),
            ("info,nonsense", "`nonsense`"),
            ("nonsense=info", "`nonsense=info`"),
            ("noised_serve=debug", "`noised_serve=debug`"),
            ("noised-server=debug", "`noised-server=debug`"),
            ("=", "`=`"),
            ("info debug", "`info debug`"),
            ("noised_server=loud", "is no filter"),
            ("a=b=c", "`a=b=c`"),
        ] {
            let rule = check_filter(filter).unwrap_err();
            assert!(rule.contains(found) && rule.contains("noised_server=debug"), "{filter}: {rule}");
        }
    }
}

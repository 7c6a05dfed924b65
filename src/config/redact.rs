//! What may be shown of a secret.

/// Stands for a secret wherever one would be shown.
pub(super) fn hidden(secret: &str) -> &'static str {
    match secret {
        "" => "",
        _ => "(hidden)",
    }
}

/// A database URL without its password, whether that stands before the host or in the query.
pub(super) fn url_without_password(url: &str) -> String {
    let (address, query) = match url.split_once('?') {
        Some((address, query)) => (address, Some(query)),
        None => (url, None),
    };
    // The last `@` ends the credentials: a password that was not percent-encoded may hold others.
    let mut shown = match (address.find("://"), address.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => {
            let credentials = &address[scheme + 3..at];
            match credentials.split_once(':') {
                Some((user, _)) => {
                    format!(
                        "{}{user}:(hidden){}",
                        &address[..scheme + 3],
                        &address[at..]
                    )
                }
                None => address.to_owned(),
            }
        }
        _ => address.to_owned(),
    };
    if let Some(query) = query {
        let parts: Vec<_> = query
            .split('&')
            .map(|part| match part.split_once('=') {
                Some((name, _)) if name.to_lowercase().contains("password") => {
                    format!("{name}=(hidden)")
                }
                _ => part.to_owned(),
            })
            .collect();
        shown = format!("{shown}?{}", parts.join("&"));
    }
    // A `?` inside an unencoded password splits at the wrong place: then nothing is shown.
    if query.is_some_and(|query| query.contains('@')) {
        return "(hidden)".to_owned();
    }
    shown
}

/// What may be shown of the value of `key`.
pub(super) fn shown_value(key: &str, value: &str) -> String {
    match key {
        "database.url" => url_without_password(value),
        "storage.s3.secret_access_key" | "webhooks.deletions.secrets" => hidden(value).to_owned(),
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_of_a_url_shows_its_password() {
        for (url, shown) in [
            (
                "sqlite://hapax-data/hapax.db",
                "sqlite://hapax-data/hapax.db",
            ),
            ("postgres://db/hapax", "postgres://db/hapax"),
            ("postgres://me@db/hapax", "postgres://me@db/hapax"),
            (
                "postgres://me:pw@db/hapax",
                "postgres://me:(hidden)@db/hapax",
            ),
            (
                "postgres://me:p@w:x@db/hapax",
                "postgres://me:(hidden)@db/hapax",
            ),
            (
                "postgres:///hapax?host=/run&password=pw&user=me",
                "postgres:///hapax?host=/run&password=(hidden)&user=me",
            ),
            ("postgres://me:p?w@db/hapax", "(hidden)"),
        ] {
            assert_eq!(url_without_password(url), shown);
        }
    }
}

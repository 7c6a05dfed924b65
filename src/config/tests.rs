use std::ffi::OsString;
use std::time::Duration;

use super::sources::{keys_of, variable_of};
use super::*;

const SHIPPED: &str = include_str!("../../config.toml");

fn read(toml: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigProblems> {
    let environment = environment
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::from_sources(Some(("config.toml", toml)), environment)
}

fn problems(toml: &str, environment: &[(&str, &str)]) -> Vec<ConfigProblem> {
    read(toml, environment).expect_err("to be refused").0
}

#[test]
fn the_shipped_file_says_exactly_the_defaults() {
    assert_eq!(read(SHIPPED, &[]), Ok(Config::default()));
    assert_eq!(Config::from_sources(None, []), Ok(Config::default()));
}

#[test]
fn the_shipped_file_documents_every_key_and_variable() {
    let keys = keys_of(&serde_json::to_value(Config::default()).expect("plain values"));
    let table: toml::Table = SHIPPED.parse().expect("valid TOML");
    let shipped = keys_of(&serde_json::to_value(table).expect("plain values"));
    let sorted = |mut keys: Vec<String>| {
        keys.sort();
        keys
    };
    assert_eq!(sorted(shipped), sorted(keys.clone()));
    for key in keys {
        let variable = format!("# {}", variable_of(&key));
        let named = |line: &str| line.split(" (").next() == Some(variable.as_str());
        assert!(SHIPPED.lines().any(named), "{variable} is not documented");
    }
}

#[test]
fn the_environment_wins_over_the_file() {
    let config = read(
        "[upload]\nmax_bytes = 7\nmax_files = 3\n[storage.s3]\nendpoint = \"http://a\"",
        &[
            ("HAPAX__UPLOAD__MAX_BYTES", "64 MiB"),
            ("HAPAX__UPLOAD__ACCEPT", r#"["image/*","text/plain"]"#),
            ("HAPAX__UPLOAD__LEASE", "1h 30m"),
            ("HAPAX__UPLOAD__PUT_DEADLINE", "2h"),
            ("HAPAX__STORAGE__LOCAL__PATH", "/tmp/x"),
            ("HAPAX__STORAGE__S3__ENDPOINT", ""),
            ("HAPAX__STORAGE__S3__PATH_STYLE", "true"),
            ("HAPAX__SERVER__WORKERS", "2"),
            ("HAPAX_UNRELATED", "x"),
        ],
    )
    .expect("to be taken");
    assert_eq!(config.upload.max_bytes, 64 << 20);
    assert_eq!(config.upload.max_files, 3);
    assert_eq!(config.upload.accept, ["image/*", "text/plain"]);
    assert_eq!(config.upload.lease, Duration::from_secs(90 * 60));
    assert_eq!(config.storage.local.path.to_str(), Some("/tmp/x"));
    assert_eq!(config.storage.s3.endpoint, None);
    assert!(config.storage.s3.path_style);
    assert_eq!(config.server.workers, 2);
}

#[test]
fn every_problem_is_reported_at_once() {
    let found = problems(
        "[server]\nbnd = \"x\"\nworkers = -1\n[storage]\nbackend = \"s4\"\n[upload]\nlease = 15\n\
         max_bytes = 0\naccept = \"image/*\"\n[log]\nformat = 3",
        &[
            ("HAPAX__STORAGE__BUCKET", "b"),
            ("HAPAX__AUTH__MODE", "key"),
            ("HAPAX__CLEANUP__LIMIT", "many"),
            ("HAPAX__UPLOAD", "x"),
            ("HAPAX__SERVER__BIND", "localhost"),
            ("HAPAX__AUTH__ALLOW_ANONYMOUS", "yes"),
            ("HAPAX__DATABASE__MAX_CONNECTIONS", "5000000000"),
        ],
    );
    let said: Vec<_> = found
        .iter()
        .map(|p| {
            let value = p.value.as_deref().unwrap_or("-");
            format!("{} = {value} ({}): {}; {}", p.key, p.source, p.rule, p.hint)
        })
        .collect();
    for expected in [
        r#"server.bnd = "x" (config.toml): a known key; did you mean server.bind?"#,
        "server.workers = -1 (config.toml): a whole number, 0 or more; the default is 0",
        r#"storage.backend = "s4" (config.toml): one of local, s3; did you mean s3?"#,
        "storage.bucket = b (HAPAX__STORAGE__BUCKET): a known key; did you mean HAPAX__STORAGE__S3__BUCKET?",
        "auth.mode = key (HAPAX__AUTH__MODE): one of none, keys; did you mean keys?",
        "cleanup.limit = many (HAPAX__CLEANUP__LIMIT): a whole number, 0 or more; the default is 100",
        "upload = - (HAPAX__UPLOAD): a section, not a value; set its keys, like upload.accept",
        "auth.allow_anonymous = yes (HAPAX__AUTH__ALLOW_ANONYMOUS): true or false; the default is false",
        r#"log.format = 3 (config.toml): one of text, json; the default is "text""#,
        "database.max_connections = 5000000000 (HAPAX__DATABASE__MAX_CONNECTIONS): a whole number up to 4294967295; the default is 16",
    ] {
        assert!(
            said.iter().any(|line| line == expected),
            "{expected}\nnot in {said:#?}"
        );
    }
    for key in [
        "upload.lease",
        "upload.max_bytes",
        "upload.accept",
        "server.bind",
    ] {
        assert_eq!(
            found.iter().filter(|p| p.key == key).count(),
            1,
            "{key}: {said:#?}"
        );
    }
    assert_eq!(found.len(), 14, "{said:#?}");
}

#[test]
fn each_rule_between_and_about_values_has_its_problem() {
    const S3: &str = "[storage]\nbackend = \"s3\"\ns3.bucket = \"b\"\n";
    for (toml, key) in [
        ("[server]\nbind = \"0.0.0.0:80\"", "server.bind"),
        ("[server]\nmax_connections = 0", "server.max_connections"),
        ("[database]\nurl = \"mysql://x\"", "database.url"),
        ("[database]\nurl = \"sqlite::memory:\"", "database.url"),
        ("[database]\nurl = \"sqlite://\"", "database.url"),
        ("[database]\nlock_timeout = \"0s\"", "database.lock_timeout"),
        (
            "[database]\nmax_connections = 0",
            "database.max_connections",
        ),
        ("[storage]\nbackend = \"s3\"", "storage.s3.bucket"),
        ("[storage]\nlocal.path = \"\"", "storage.local.path"),
        ("[storage.s3]\nprefix = \"/a\"", "storage.s3.prefix"),
        ("[storage.s3]\nprefix = \"a/\"", "storage.s3.prefix"),
        ("[storage.s3]\nprefix = \"a/../b\"", "storage.s3.prefix"),
        ("s3.endpoint = \"ftp://x\"", "storage.s3.endpoint"),
        ("s3.endpoint = \"localhost:9000\"", "storage.s3.endpoint"),
        ("s3.access_key_id = \"x\"", "storage.s3.access_key_id"),
        ("s3.max_concurrency = 0", "storage.s3.max_concurrency"),
        ("s3.operation_timeout = \"15m\"", "upload.lease"),
        ("s3.min_throughput = 0", "storage.s3.min_throughput"),
        (
            "[upload]\nmax_bytes = \"6 GiB\"\nlease = \"30m\"",
            "upload.max_bytes",
        ),
        ("[upload]\nmax_bytes = 0", "upload.max_bytes"),
        (
            "[upload]\nmemory_threshold = \"1 GiB\"",
            "upload.memory_threshold",
        ),
        (
            "[upload]\nmemory_threshold = \"4 GiB\"\nmemory_budget = \"8 GiB\"",
            "upload.memory_threshold",
        ),
        (
            "[upload]\nmemory_threshold = 0\nmemory_budget = 0",
            "upload.memory_budget",
        ),
        ("[upload]\naccept = []", "upload.accept"),
        ("[upload]\naccept = [\"*/png\"]", "upload.accept"),
        ("[upload]\naccept = [\"image\"]", "upload.accept"),
        ("[upload]\nmax_files = 0", "upload.max_files"),
        ("[upload]\nput_deadline = \"10m\"", "upload.put_deadline"),
        ("[upload]\nidle_timeout = \"0s\"", "upload.idle_timeout"),
        ("[refcount]\nqueue = 0", "refcount.queue"),
        (
            "[cleanup]\ngrace_period = \"99999d\"",
            "cleanup.grace_period",
        ),
        ("[cleanup]\ninterval = \"0s\"", "cleanup.interval"),
        ("[cleanup]\nlimit = 0", "cleanup.limit"),
        ("[verify]\ninterval = \"10ms\"", "verify.interval"),
        ("[verify]\nrate = 0", "verify.rate"),
        ("[verify]\nread_rate = \"1 KiB\"", "verify.read_rate"),
        ("[verify]\ndeep_sample = \"1\"", "verify.deep_sample"),
        ("[verify]\ndeep_sample = \"101%\"", "verify.deep_sample"),
        (
            "[webhooks.deletions]\nsecrets = [\"whsec_YWJj\"]",
            "webhooks.deletions.secrets",
        ),
        (
            "[webhooks.deletions]\nsecrets = [\"abc\"]",
            "webhooks.deletions.secrets",
        ),
        ("[log]\nlevel = \"hapax=loud\"", "log.level"),
    ] {
        let needs_s3 = toml.starts_with("s3.") || toml.contains("6 GiB");
        let toml = format!("{}{toml}", if needs_s3 { S3 } else { "" });
        let found = problems(&toml, &[]);
        let keys: Vec<_> = found.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, [key], "{toml}: {found:#?}");
    }
}

#[test]
fn the_network_without_keys_is_a_choice() {
    let open = "[server]\nbind = \"0.0.0.0:80\"\n";
    for allowed in ["[auth]\nmode = \"keys\"", "[auth]\nallow_anonymous = true"] {
        assert!(read(&format!("{open}{allowed}"), &[]).is_ok());
    }
}

#[test]
fn broken_toml_tells_its_place_and_hides_no_variable() {
    let found = problems("[server]\nbind = \n", &[("HAPAX__NO__SUCH", "1")]);
    assert_eq!(found.len(), 2);
    assert!(found[0].source.starts_with("line 2"), "{found:?}");
}

#[test]
fn secrets_are_never_shown() {
    let secret = format!("whsec_{}", "QUJD".repeat(10));
    let config = read(
        "[storage.s3]\naccess_key_id = \"id\"\nsecret_access_key = \"SEKRIT\"\n\
         [database]\nurl = \"postgres://me:SEKRIT@db/x\"",
        &[(
            "HAPAX__WEBHOOKS__DELETIONS__SECRETS",
            &format!("[\"{secret}\"]"),
        )],
    )
    .expect("to be taken");
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("SEKRIT") && !shown.contains(&secret),
        "{shown}"
    );

    let refused = read(
        "[storage.s3]\nsecret_access_key = 77001\nsecret_acces_key = \"77002\"",
        &[
            ("HAPAX__WEBHOOKS__DELETIONS__SECRETS", "whsec_77003"),
            ("HAPAX__DATABASE__URL", "mysql://me:77004@db/x"),
            ("HAPAX__DATABASE__PASSWORD", "77005"),
        ],
    )
    .expect_err("to be refused");
    assert_eq!(refused.0.len(), 5, "{refused}");
    assert!(!refused.to_string().contains("7700"), "{refused}");
}

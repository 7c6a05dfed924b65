//! The command line: configuration, exit codes.

use std::time::Duration;

use crate::harness::{Api, Context, Server, cases, distinct_bytes, sha256_hex, small_png};

cases! {
    both: [
        bad_configuration_prints_all_problems,
        unknown_settings_are_refused,
        an_address_that_is_not_loopback_needs_keys,
        a_configuration_file,
        wrong_use_exits_with_2,
        commands_before_the_first_start,
        cleanup_as_json,
        an_unreachable_database,
    ],
    sqlite_local: [without_any_configuration, a_second_serve_is_refused],
    postgres_s3: [an_unreachable_store, secrets_are_not_printed],
}

async fn bad_configuration_prints_all_problems(ctx: &mut Context) {
    ctx.without_end_check("the server must not start");
    for (name, value) in [
        ("UPLOAD__MAX_BYTES", "a lot"),
        ("UPLOAD__ACCEPT", "[\"everything\"]"),
        ("CLEANUP__INTERVAL", "often"),
        ("STORAGE__BACKEND", "tape"),
        ("SERVER__BIND", "localhost"),
        ("DATABASE__URL", "oracle://somewhere"),
        ("AUTH__MODE", "trust"),
        ("WEBHOOKS__DELETIONS__SECRETS", "[\"short\"]"),
    ] {
        ctx.set(name, value);
    }
    let output = ctx.hapax(&["serve"]).exits_with(2);
    for key in [
        "upload.max_bytes",
        "upload.accept",
        "cleanup.interval",
        "storage.backend",
        "server.bind",
        "database.url",
        "auth.mode",
        "webhooks.deletions.secrets",
    ] {
        assert!(
            output.stderr.contains(key),
            "{key} is not in\n{}",
            output.stderr
        );
    }
    let lines = |word: &str| output.stderr.matches(word).count();
    assert!(
        lines("hint:") >= 8,
        "each problem has a hint:\n{}",
        output.stderr
    );
    assert!(output.stderr.contains("a lot"), "the value is shown");
}

async fn unknown_settings_are_refused(ctx: &mut Context) {
    ctx.without_end_check("the server must not start");
    ctx.set("UPLOAD__MAX_BITES", "1 MiB");
    let output = ctx.hapax(&["serve"]).exits_with(2);
    assert!(
        output.stderr.to_lowercase().contains("max_bites"),
        "{}",
        output.stderr
    );
}

async fn an_address_that_is_not_loopback_needs_keys(ctx: &mut Context) {
    ctx.set("SERVER__BIND", "0.0.0.0:0");
    let output = ctx.hapax(&["serve"]).exits_with(2);
    assert!(output.stderr.contains("server.bind"), "{}", output.stderr);
    assert!(
        output.stderr.contains("allow_anonymous"),
        "{}",
        output.stderr
    );
    ctx.set("AUTH__ALLOW_ANONYMOUS", "true");
    let api = ctx.start().await;
    let api = Api::new(&api.base.replace("0.0.0.0", "127.0.0.1"));
    api.get("/readyz").await.expect(200);
    ctx.server().stop().await;
    ctx.set("AUTH__ALLOW_ANONYMOUS", "false");
    ctx.set("AUTH__MODE", "keys");
    let api = ctx.start().await;
    let api = Api::new(&api.base.replace("0.0.0.0", "127.0.0.1"));
    api.get("/v1/images").await.problem(401, "unauthorized");
}

async fn a_configuration_file(ctx: &mut Context) {
    let file = ctx.path("my.toml");
    let file = file.to_str().expect("UTF-8").to_owned();
    std::fs::write(&file, "[upload]\nmax_bytes = \"1 KiB\"\n").expect("it can be written");
    ctx.settings.remove("UPLOAD__MAX_BYTES");
    // The name that is found by itself, and the name that is given.
    std::fs::copy(&file, ctx.path("config.toml")).expect("it can be copied");
    let api = ctx.start().await;
    api.upload(vec![1; 1025])
        .await
        .problem(413, "body-too-large");
    ctx.server().stop().await;
    // The environment wins over the file.
    ctx.set("UPLOAD__MAX_BYTES", "2 KiB");
    let api = ctx.start().await;
    api.upload(vec![1; 1025]).await.expect(201);
    std::fs::write(&file, "[upload]\nmax_bytes = 7\nmin_bytes = 7\n").expect("it can be written");
    let output = ctx.hapax(&["stats", "--config", &file]).exits_with(2);
    assert!(output.stderr.contains("min_bytes"), "{}", output.stderr);
    let output = ctx
        .hapax(&["stats", "--config", "not-there.toml"])
        .exits_with(2);
    assert!(
        output.stderr.contains("not-there.toml"),
        "{}",
        output.stderr
    );
}

async fn wrong_use_exits_with_2(ctx: &mut Context) {
    ctx.without_end_check("nothing runs");
    for arguments in [
        &[][..],
        &["surve"],
        &["cleanup", "--limit", "0"],
        &["cleanup", "--older-than", "soon"],
        &["keys", "create", "--tenant", "acme"],
        &["keys", "create", "--tenant", "a/b", "--scope", "read"],
        &["migrate"],
        &["verify", "--unheard-of"],
    ] {
        let output = ctx.hapax(arguments).exits_with(2);
        assert!(
            !output.stderr.is_empty() && output.stdout.is_empty(),
            "{output:?}"
        );
    }
    for arguments in [["--help"], ["--version"]] {
        let output = ctx.hapax(&arguments).exits_with(0);
        assert!(output.stdout.contains("hapax"), "{output:?}");
    }
}

/// An empty place: nothing to say, or a clear refusal; never a crash.
async fn commands_before_the_first_start(ctx: &mut Context) {
    for arguments in [&["stats"][..], &["cleanup"], &["verify"], &["keys", "list"]] {
        let output = ctx.hapax(arguments);
        assert!(
            matches!(output.code, Some(0 | 1)),
            "{arguments:?}: {output:?}"
        );
        assert!(!output.stderr.contains("panicked"), "{output:?}");
    }
    ctx.hapax(&["keys", "create", "--tenant", "acme", "--scope", "read"])
        .exits_with(0);
    ctx.start().await.upload(small_png(1)).await.expect(201);
}

async fn cleanup_as_json(ctx: &mut Context) {
    ctx.set_grace(Duration::from_secs(3600));
    let api = ctx.start().await;
    let bytes = distinct_bytes(1234);
    let id = api.upload_id(bytes.clone()).await;
    api.delete(&id).await.expect(200);
    let run = ctx
        .hapax(&["cleanup", "--older-than", "0s", "--json"])
        .exits_with(0)
        .json();
    assert_eq!(run["deleted"], 1, "{run}");
    assert_eq!(run["bytes"], 1234, "{run}");
    assert_eq!(
        run["originals"][0]["content_hash"],
        sha256_hex(&bytes),
        "{run}"
    );
    assert_eq!(ctx.outside().await.object_count().await, 0);
}

async fn an_unreachable_database(ctx: &mut Context) {
    ctx.without_end_check("there is no database");
    if ctx.is_sqlite() {
        std::fs::write(ctx.path("file"), "x").expect("it can be written");
        let url = format!("sqlite://{}/hapax.db", ctx.path("file").display());
        ctx.set("DATABASE__URL", &url);
    } else {
        ctx.set("DATABASE__URL", "postgres://nobody@127.0.0.1:9/none");
    }
    for arguments in [&["serve"][..], &["stats"], &["migrate", "status"]] {
        let output = ctx.hapax_beside(arguments).await.exits_with(1);
        assert!(
            output.stderr.contains("database"),
            "{arguments:?}: {output:?}"
        );
    }
}

async fn an_unreachable_store(ctx: &mut Context) {
    ctx.without_end_check("there is no store");
    ctx.set("STORAGE__S3__ENDPOINT", "http://127.0.0.1:9");
    let output = ctx.hapax_beside(&["serve"]).await.exits_with(1);
    assert!(output.stderr.contains("store"), "{output:?}");
}

async fn secrets_are_not_printed(ctx: &mut Context) {
    ctx.set("LOG__LEVEL", "debug");
    let api = ctx.start().await;
    api.upload(small_png(9)).await.expect(201);
    ctx.server().stop().await;
    let secret = ctx.settings["STORAGE__S3__SECRET_ACCESS_KEY"].clone();
    let log = std::fs::read_to_string(&ctx.server().log).expect("there is a log");
    assert!(!log.contains(&secret), "the secret key is in the log");
    ctx.set("STORAGE__S3__MAX_CONCURRENCY", "0");
    let output = ctx.hapax(&["serve"]).exits_with(2);
    assert!(!output.stderr.contains(&secret), "{}", output.stderr);
    ctx.set("STORAGE__S3__MAX_CONCURRENCY", "8");
}

/// In an empty folder: SQLite and a local store under `./hapax-data`.
async fn without_any_configuration(ctx: &mut Context) {
    ctx.without_end_check("it runs beside the case's own database");
    let folder = ctx.path("elsewhere");
    std::fs::create_dir(&folder).expect("its name is free");
    let mut settings = ctx.settings.clone();
    // The port would be everybody's.
    settings.retain(|name, _| name == "SERVER__BIND");
    let server = Server::start(&settings, &folder, ctx.path("elsewhere.log")).expect("it starts");
    let api = Api::new(&server.base);
    let reply = api.upload(small_png(8)).await.expect(201);
    assert_eq!(
        api.content(&reply.image_id()).await.expect(200).body,
        small_png(8)
    );
    assert!(folder.join("hapax-data/hapax.db").is_file());
    assert!(folder.join("hapax-data/objects").is_dir());
}

/// One process at a time serves a SQLite database; the other commands run beside it.
async fn a_second_serve_is_refused(ctx: &mut Context) {
    let api = ctx.start().await;
    let output = ctx.try_start().expect_err("a second server must not start");
    assert_eq!(output.code, Some(1), "{output:?}");
    let text = output.stderr.to_lowercase();
    assert!(
        text.contains("another") || text.contains("already"),
        "{text}"
    );
    api.upload(small_png(7)).await.expect(201);
    ctx.hapax(&["stats"]).exits_with(0);
    // The lock goes with the process, however it ends.
    ctx.server().kill();
    ctx.start().await.upload(small_png(7)).await.expect(201);
}

//! Random values of scalar types, as SQL expressions. Edges come often.

use crate::support::load::Dice;

/// Makes an expression of the type that stands beside it in [`SCALARS`].
pub type Generator = fn(&mut Dice) -> String;

/// Every built-in type that a column can have and a value can be written for, some with modifiers.
pub const SCALARS: &[(&str, Generator)] = &[
    ("bool", |dice| one_of(dice, &["true", "false"])),
    ("int2", |dice| integer(dice, 16)),
    ("int4", |dice| integer(dice, 32)),
    ("int8", |dice| integer(dice, 64)),
    ("float4", float4),
    ("float8", float8),
    ("numeric", numeric),
    ("numeric(20,4)", |dice| one_of(dice, &["0", "-1.5", "1234567890123456.7891", "NaN", "0.00005"])),
    ("money", |dice| one_of(dice, &["0", "-12.34", "92233720368547758.07", "1234567.8"])),
    ("text", text),
    ("varchar", text),
    ("varchar(10)", text),
    ("bpchar", text),
    ("char(5)", text),
    ("name", text),
    ("\"char\"", |dice| one_of(dice, &["", "a", "\"", "\\", "{", "'", ",", "\u{1}", " "])),
    ("bytea", |dice| format!("\\x{}", hex(dice, 12))),
    ("date", date),
    ("time", |dice| one_of(dice, &["00:00", "24:00", "07:14:21.601701", "23:59:59.999999", "12:00:00.5"])),
    ("timetz", |dice| one_of(dice, &["00:00+00", "24:00-15:59:59", "07:14:21.6+05:30", "12:00:00.000001+15:59"])),
    ("timestamp", |dice| timestamp(dice, "")),
    ("timestamp(0)", |dice| timestamp(dice, "")),
    ("timestamptz", |dice| {
        let zone = one_of(dice, &["+00", "-15:59:59", "+05:30", " Asia/Tokyo"]);
        timestamp(dice, &zone)
    }),
    ("interval", interval),
    ("interval day to second(2)", interval),
    ("uuid", |dice| hex(dice, 16)),
    ("json", json),
    ("jsonb", json),
    ("jsonpath", |dice| one_of(dice, &["$", "$.a[*] ? (@.b > 1).\"c d\"", "strict $.\"\\\"\"", "lax $[0 to last]"])),
    ("inet", |dice| one_of(dice, &["192.168.0.1", "10.0.0.0/8", "::1", "2001:db8::ff00:42:8329/64", "0.0.0.0/0"])),
    ("cidr", |dice| one_of(dice, &["192.168.0.1/32", "10.0.0.0/8", "::/0", "2001:db8::/32"])),
    ("macaddr", |dice| one_of(dice, &["08:00:2b:01:02:03", "ffffffffffff"])),
    ("macaddr8", |dice| one_of(dice, &["08:00:2b:01:02:03:04:05", "ffffffffffffffff"])),
    ("bit(3)", |dice| one_of(dice, &["000", "101"])),
    ("varbit", |dice| one_of(dice, &["", "1", "010011"])),
    ("point", |dice| format!("({},{})", coordinate(dice), coordinate(dice))),
    ("line", |dice| one_of(dice, &["{1,2,3}", "{0,-1,0}", "{1e-300,1,-0.5}"])),
    ("lseg", |dice| one_of(dice, &["[(0,0),(1,1)]", "[(-1e300,0.1),(NaN,Infinity)]"])),
    ("box", |dice| one_of(dice, &["(1,1),(0,0)", "(2.5,1e10),(-1,-0.25)"])),
    ("path", |dice| one_of(dice, &["((0,0),(1,1),(2,0))", "[(0,0),(0.1,1e-7)]"])),
    ("polygon", |dice| one_of(dice, &["((0,0),(1,1),(2,0))", "((1,2))"])),
    ("circle", |dice| one_of(dice, &["<(0,0),1>", "<(1.5,-2),0>", "<(0,0),Infinity>"])),
    ("int4range", |dice| one_of(dice, &["empty", "[1,5)", "(,)", "[3,3]", "(,7]", "[-2147483648,)"])),
    ("int8range", |dice| one_of(dice, &["empty", "[-5,9223372036854775807)", "(,)"])),
    ("numrange", |dice| one_of(dice, &["empty", "[1.50,2.5]", "(,1e40)", "[0,0]"])),
    ("daterange", |dice| {
        one_of(dice, &["empty", "[2006-02-02,2007-01-01]", "[0044-03-15 BC,)", "(-infinity,infinity)"])
    }),
    ("tsrange", |dice| one_of(dice, &["empty", "[2018-09-05 07:14:21.6,infinity]", "(,0001-01-01 BC)"])),
    ("tstzrange", |dice| one_of(dice, &["empty", "[2018-09-05 07:14:21.6+05:30,2019-01-01)", "[-infinity,)"])),
    ("int4multirange", |dice| one_of(dice, &["{}", "{[1,3),[5,9)}", "{(,)}"])),
    ("int8multirange", |dice| one_of(dice, &["{}", "{[1,3)}"])),
    ("nummultirange", |dice| one_of(dice, &["{}", "{[1.0,3.5],(4,)}"])),
    ("datemultirange", |dice| one_of(dice, &["{}", "{[2006-02-02,2006-03-01),[2007-01-01,)}"])),
    ("tsmultirange", |dice| one_of(dice, &["{}", "{[2006-02-02 01:00,2006-03-01 00:00:00.1)}"])),
    ("tstzmultirange", |dice| one_of(dice, &["{}", "{[2006-02-02 01:00+03,2006-03-01)}"])),
    ("tsvector", |dice| one_of(dice, &["", "'a':1A 'b':2", "'it''s':1,2 'q\"':3B '\\\\'", "'é {,}'"])),
    ("tsquery", |dice| one_of(dice, &["", "a & !b | c:*", "'it''s' <-> 'q\"'"])),
    ("pg_lsn", |dice| one_of(dice, &["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"])),
    ("oid", |dice| one_of(dice, &["0", "26", "4294967295"])),
    ("xid", |dice| one_of(dice, &["0", "4294967295"])),
    ("xid8", |dice| one_of(dice, &["0", "18446744073709551615"])),
    ("cid", |dice| one_of(dice, &["0", "7"])),
    ("tid", |dice| one_of(dice, &["(0,1)", "(4294967295,65535)"])),
    ("txid_snapshot", |dice| one_of(dice, &["10:20:10,14,15", "1:1:"])),
    ("pg_snapshot", |dice| one_of(dice, &["10:20:10,14,15", "1:1:"])),
    ("regclass", |dice| one_of(dice, &["pg_class", "public.\"odd \"\" name\"", "0", "4294967295"])),
    ("regtype", |dice| one_of(dice, &["int4", "public.mood[]", "timestamptz", "public.\"odd \"\" name\""])),
    ("regproc", |dice| one_of(dice, &["now", "0"])),
    ("regprocedure", |dice| one_of(dice, &["abs(numeric)", "0"])),
    ("regoper", |dice| one_of(dice, &["||/", "0"])),
    ("regoperator", |dice| one_of(dice, &["*(int4,int4)", "0"])),
    ("regnamespace", |dice| one_of(dice, &["pg_catalog", "public"])),
    ("regrole", |dice| one_of(dice, &["pg_monitor"])),
    ("regcollation", |dice| one_of(dice, &["\"C\"", "\"POSIX\""])),
    ("regconfig", |dice| one_of(dice, &["english", "simple"])),
    ("regdictionary", |dice| one_of(dice, &["simple"])),
    ("refcursor", text),
    ("aclitem", |dice| one_of(dice, &["=r/pg_monitor", "pg_monitor=arwdDxt/pg_monitor"])),
    ("int2vector", |dice| one_of(dice, &["", "1", "1 -2 32767"])),
    ("oidvector", |dice| one_of(dice, &["", "26", "0 4294967295 7"])),
    ("information_schema.sql_identifier", text),
    ("information_schema.cardinal_number", |dice| one_of(dice, &["0", "7"])),
];

/// What a build of Postgres or a version of it may lack; tried before it is used.
pub const OPTIONAL: &[(&str, Generator)] =
    &[("xml", |dice| one_of(dice, &["", "<a b=\"1\">é&lt;</a>", "text", "<?xml version=\"1.0\"?><a/>", "<a>\n</a>"]))];

/// Types of extensions that come with Postgres.
pub const EXTENSIONS: &[(&str, &str, Generator)] = &[
    ("hstore", "public.hstore", hstore),
    ("citext", "public.citext", text),
    ("ltree", "public.ltree", |dice| one_of(dice, &["", "Top.Science.Astronomy"])),
    ("ltree", "public.lquery", |dice| one_of(dice, &["*.Science.*", "a|b{1,2}"])),
    ("cube", "public.cube", |dice| one_of(dice, &["(1,2),(3,4)", "(0)"])),
    ("seg", "public.seg", |dice| one_of(dice, &["1 .. 2.50", "<7"])),
    ("isn", "public.isbn13", |_| "978-0-393-04002-9".into()),
];

pub fn one_of(dice: &mut Dice, choices: &[&str]) -> String {
    choices[dice.below(choices.len() as u64) as usize].to_owned()
}

fn integer(dice: &mut Dice, bits: u32) -> String {
    let (low, high) = (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1);
    let random = i128::from(dice.below(u64::MAX)) % (high + 1);
    let choices = [0, 1, -1, low, high, random, -random];
    choices[dice.below(choices.len() as u64) as usize].to_string()
}

fn float4(dice: &mut Dice) -> String {
    let random = f32::from_bits(dice.below(1 << 32) as u32);
    let edges = [0.0, -0.0, 1.5, 0.1, f32::MAX, f32::MIN_POSITIVE, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e7];
    let float = if dice.below(2) == 0 { random } else { edges[dice.below(edges.len() as u64) as usize] };
    special(float.into()).unwrap_or_else(|| format!("{float:e}"))
}

fn float8(dice: &mut Dice) -> String {
    let random = f64::from_bits(dice.below(u64::MAX));
    let edges = [0.0, -0.0, 0.1, f64::MAX, f64::MIN_POSITIVE, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e15, 1e16];
    let float = if dice.below(2) == 0 { random } else { edges[dice.below(edges.len() as u64) as usize] };
    special(float).unwrap_or_else(|| format!("{float:e}"))
}

fn special(float: f64) -> Option<String> {
    let name = if float.is_nan() { "NaN" } else { "Infinity" };
    let sign = if float == f64::NEG_INFINITY { "-" } else { "" };
    (!float.is_finite()).then(|| format!("{sign}{name}"))
}

fn coordinate(dice: &mut Dice) -> String {
    one_of(dice, &["0", "-1.5", "1e300", "NaN", "-Infinity", "0.1"])
}

fn numeric(dice: &mut Dice) -> String {
    match dice.below(4) {
        0 => one_of(dice, &["NaN", "Infinity", "-Infinity", "0", "0.000", "-0.00000000000000000000000000000001"]),
        1 => format!("{}e{}", dice.below(1000), dice.below(200)),
        2 => format!("-{}.{:020}", dice.below(u64::MAX), dice.below(u64::MAX)),
        _ => format!("{}.{}", dice.below(1000), "90".repeat(dice.below(20) as usize)),
    }
}

fn date(dice: &mut Dice) -> String {
    let day = format!("{:04}-{:02}-{:02}", 1 + dice.below(9999), 1 + dice.below(12), 1 + dice.below(28));
    let edge =
        one_of(dice, &["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "0044-03-15 BC", "10000-01-01"]);
    if dice.below(2) == 0 { day } else { edge }
}

fn timestamp(dice: &mut Dice, zone: &str) -> String {
    let day = date(dice);
    match day.strip_suffix(" BC") {
        _ if day.ends_with("infinity") => day,
        Some("4713-01-01") => format!("4713-01-01 23:00:00{zone} BC"),
        Some(day) => format!("{day} 12:00:00.5{zone} BC"),
        None if day == "5874897-12-31" => format!("294276-12-30 23:59:59.999999{zone}"),
        None => format!("{day} {}{zone}", one_of(dice, &["00:00:00", "23:59:59.999999", "07:14:21.6", "24:00:00"])),
    }
}

fn interval(dice: &mut Dice) -> String {
    one_of(
        dice,
        &[
            "0",
            "1 year -2 days 03:04:05.6",
            "-1 mon",
            "178000000 years",
            "-178000000 years",
            "00:00:00.000001",
            "-00:00:01",
            "2147483647:59:59.98",
            "1 day",
            "-1 day +01:00",
        ],
    )
}

fn hex(dice: &mut Dice, bytes: usize) -> String {
    (0..bytes).map(|_| format!("{:02x}", dice.below(256))).collect()
}

/// Everything that some quoting somewhere treats in its own way, and every kind of character.
pub fn text(dice: &mut Dice) -> String {
    const PIECES: &[&str] = &[
        "\"",
        "\\",
        "'",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        ",",
        ";",
        ":",
        "=",
        "=>",
        "NULL",
        "null",
        " ",
        "  ",
        "\t",
        "\n",
        "\r",
        "\u{b}",
        "\u{c}",
        "\u{8}",
        "\u{1}",
        "\u{1f}",
        "\u{7f}",
        "\u{80}",
        "\u{a0}",
        "é",
        "e\u{301}",
        "中",
        "🦀",
        "\u{2028}",
        "\u{2029}",
        "\u{feff}",
        "\u{fffd}",
        "\u{ffff}",
        "\u{10ffff}",
        "\u{200f}",
        "</script>",
        "/",
        "a",
        "B",
        "0",
        "1",
        "-",
        "+",
        ".",
        "\\u0000",
        "\\n",
        "\"\"",
        "\\\\",
        "%",
        "$1",
        "true",
    ];
    match dice.below(60) {
        0..3 => String::new(),
        3..6 => "NULL".into(),
        6 => (0..3000).map(|_| random_char(dice)).collect(),
        _ => {
            let count = 1 + dice.below(6);
            (0..count)
                .map(|_| if dice.below(4) == 0 { random_char(dice).into() } else { one_of(dice, PIECES) })
                .collect()
        }
    }
}

fn random_char(dice: &mut Dice) -> char {
    let end = [0x80, 0x800, 0x1_0000, 0x11_0000][dice.below(4) as usize];
    char::from_u32(1 + dice.below(end - 1) as u32).unwrap_or('x')
}

fn json(dice: &mut Dice) -> String {
    json_of_depth(dice, 3)
}

fn json_of_depth(dice: &mut Dice, depth: u32) -> String {
    let string =
        |dice: &mut Dice| serde_json::to_string(&text(dice).chars().take(20).collect::<String>()).expect("a string");
    let space = one_of(dice, &["", "", " ", "\n\t", "  "]);
    match dice.below(if depth == 0 { 3 } else { 5 }) {
        0 => one_of(dice, &["null", "true", "false", "\"\\u00e9\\n\\/\""]),
        1 => one_of(dice, &["0", "-0", "1e5", "1E-7", "0.1000", "12345678901234567890123", "-1.5e+10"]),
        2 => string(dice),
        3 => {
            let items: Vec<String> = (0..dice.below(4)).map(|_| json_of_depth(dice, depth - 1)).collect();
            format!("{space}[{}]{space}", items.join(&format!(",{space}")))
        }
        _ => {
            let mut item = || format!("{}{space}:{}", string(dice), json_of_depth(dice, depth - 1));
            // The same key twice is kept by json.
            let items: Vec<String> = [item(), item()].into_iter().chain([format!("\"a\":{}", 1)]).collect();
            format!("{{{space}{}}}", items.join(","))
        }
    }
}

fn hstore(dice: &mut Dice) -> String {
    let quoted = |text: String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let pairs: Vec<String> = (0..dice.below(4))
        .map(|_| {
            let key = quoted(text(dice).chars().take(30).collect());
            let value = if dice.below(4) == 0 { "NULL".into() } else { quoted(text(dice)) };
            format!("{key}=>{value}")
        })
        .collect();
    pairs.join(",")
}

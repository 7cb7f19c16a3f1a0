//! Other stores that lend their images.

use std::fs;

use crate::tool::*;

#[test]
fn what_another_store_lends_is_listed_with_that_store_and_used_as_if_it_were_ones_own() {
    let lender = Tool::with("copy");
    let id = lender.load_base();
    let lender = lender.root().to_str().unwrap().to_owned();
    let tool = Tool::with("copy");
    fn borrowing<'w>(lender: &'w str, words: &[&'w str]) -> Vec<&'w str> {
        [&["--additional-store", lender], words].concat()
    }

    let table = tool.text(&borrowing(&lender, &["images"]));
    let [header, image] = &table.lines().collect::<Vec<_>>()[..] else { panic!("{table}") };
    assert!(header.ends_with("LENT BY") && image.ends_with(&lender), "{table}");
    assert_eq!(tool.json(&borrowing(&lender, &["images"]))[0]["lent_by"], lender.as_str());
    let inspected = tool.json(&borrowing(&lender, &["inspect", "base:1"]));
    assert_eq!(inspected[0]["LentBy"], lender.as_str());
    assert_eq!(inspected[0]["Id"], id.as_str());
    assert!(tool.text(&borrowing(&lender, &["history", "base:1"])).contains("LAYER"));
    let info = tool.json(&borrowing(&lender, &["info"]));
    assert_eq!(info["lenders"], serde_json::json!([{"path": lender, "state": "usable"}]));
    assert!(tool.text(&borrowing(&lender, &["info"])).contains(&format!("Borrows     {lender}\n")));

    tool.word(&borrowing(&lender, &["create", "--name", "web", "base:1"]));
    let root = tool.word(&borrowing(&lender, &["mount", "web"]));
    assert_eq!(fs::read_to_string(format!("{root}/etc/issue")).unwrap(), "two");
    assert!(tool.text(&borrowing(&lender, &["check"])).contains("all is well"));
    let (message, object) = tool.error(&borrowing(&lender, &["rmi", "base:1"]));
    assert!(message.contains("only lends it"), "{message}");
    assert_eq!(object["kind"], "lent");
    let (message, object) = tool.error(&["changes", "web"]);
    assert!(message.contains("container web needs"), "{message}");
    assert_eq!(object["kind"], "unavailable");

    tool.text(&borrowing(&lender, &["tag", "base:1", "mine:1"]));
    assert_eq!(tool.text(&["changes", "web"]), "");
    assert_eq!(tool.json(&["images"])[0]["names"], serde_json::json!(["mine:1"]));
}

#[test]
fn other_stores_are_named_by_a_variable_too_and_those_that_cannot_be_used_are_told() {
    let [one, two] = [Tool::with("copy"), Tool::with("copy")];
    one.load_base();
    let tool = Tool::with("copy");
    let run = |words: &[&str], value: String| {
        tool.command(words).env("PLYWOOD_ADDITIONAL_STORES", value).output().unwrap()
    };
    let stores = [one.root(), two.root()].map(|path| path.to_str().unwrap().to_owned());
    let output = run(&["images", "-q"], stores.join(":"));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
    let output = run(&["info"], format!("{}::", stores.join(":")));
    let (text, errors) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(errors.contains(&stores[1]) && !errors.contains(&stores[0]), "{errors}");
    assert!(text.contains(&format!("Borrows     {} (cannot be used: ", stores[1])), "{text}");
    let own = tool.root().to_str().unwrap().to_owned();
    let (message, object) = tool.error(&["--additional-store", &own, "images"]);
    assert!(message.contains("this store itself"), "{message}");
    assert_eq!(object["kind"], "not-a-lender");
}

//! The images that every peer gets: one with everything in it that a layer and a config can say, another on the same
//! lower layers, one without a name; and those that only some peers can hold, apart.

use serde_json::{Value, json};

use crate::common::image::{Compression, ImageSpec, Layout, image};
use crate::common::model;
use crate::common::tar::{SparseDialect, Tar, tar};
use crate::common::tree::Tree;

/// `cap_net_bind_service` permitted and effective, as on disk.
pub const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub const DEMANDING: &str = "docker.io/library/demanding:1";
pub const ALSO_DEMANDING: &str = "quay.io/me/demanding:latest";
pub const HOLES: &str = "docker.io/library/holes:1";
pub const LINKED: &str = "docker.io/library/linked:1";
pub const SIBLING: &str = "localhost:5000/team/sibling:2";

/// An access list as on disk: tag, permissions and id of each entry. The user 100000 may read and write.
pub fn access_list() -> Vec<u8> {
    let anyone = u32::MAX;
    let entries = [(1, 6, anyone), (2, 6, 100_000), (4, 4, anyone), (0x10, 6, anyone), (0x20, 0, anyone)];
    let each = |(tag, permissions, id): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [2_u32.to_le_bytes().to_vec(), entries.into_iter().flat_map(each).collect()].concat()
}

/// The lower layers, lowest first. Every directory is declared, and links stay within their layer.
fn base() -> Vec<Tar> {
    let bottom = tar()
        .dir("bin")
        .file("bin/su", "su")
        .mode(0o4755)
        .file("bin/wall", "wall")
        .mode(0o2755)
        .owner(0, 5)
        .file("bin/ping", "ping")
        .mode(0o755)
        .xattr("security.capability", CAPABILITY)
        // Some engines take what a link's own entry says for the file's.
        .link("bin/ping6", "bin/ping")
        .mode(0o755)
        .xattr("security.capability", CAPABILITY)
        .dir("data")
        .dir("data/hidden")
        .file("data/hidden/file", "below an opaque directory")
        .dir("data/removed")
        .file("data/removed/file", "in a removed directory")
        .file("data/file-to-dir", "was a file")
        .dir("data/dir-to-file")
        .file("data/dir-to-file/file", "x")
        .dir("dev")
        .char_device("dev/zero", 1, 5)
        .mode(0o666)
        .block_device("dev/loop7", 7, 7)
        .owner(0, 6)
        .dir("etc")
        .mtime(1_600_000_000, 123_456_789)
        .file("etc/motd", "hello")
        .mtime(1_600_000_001, 1)
        .file("etc/gone", "gone")
        .file("etc/old", "before 1970")
        .mtime(-86_400, 500_000_000)
        .dir("home")
        .dir("home/user")
        .mode(0o700)
        .owner(1000, 100)
        .file("home/user/note", "note")
        .owner(1000, 100)
        .xattr("user.note", b"bytes \0 and =")
        .symlink("home/user/link", "/etc/motd")
        .owner(1000, 100)
        .mtime(1_500_000_000, 5)
        .file("home/far", "owners beyond 16 and 21 bits")
        .owner(100_000, 4_000_000)
        .file("home/listed", "with an access list")
        .mode(0o660)
        .xattr("system.posix_acl_access", access_list())
        .file("home/trusted", "with a trusted attribute")
        .xattr("trusted.note", "trusted")
        .dir("names")
        .file([&b"names/not utf-8: "[..], b"\xff\xe9"].concat(), "bytes")
        .file("names/spaces and\nlines", "odd")
        .file("names/gr\u{fc}\u{df}e", "utf-8")
        .file("names/long".to_owned() + &"-name".repeat(30), "long")
        .dir("names/".to_owned() + &"d".repeat(120))
        .file("names/".to_owned() + &"d".repeat(120) + "/" + &"f".repeat(200), "longer")
        .symlink("names/to", "x".repeat(300))
        .dir("run")
        .fifo("run/pipe")
        .mode(0o620)
        .dir("tmp")
        .mode(0o1777)
        .dir("var")
        .file("var/zeros", [&b"begin"[..], &[0; 1 << 20], b"end"].concat())
        .symlink("var/dangling", "nowhere/at/all")
        .symlink("var/to-dir", "../home/user")
        .file("var/empty", "");
    let middle = tar()
        .dir("data")
        .whiteout("data/removed")
        .dir("data/file-to-dir")
        .mode(0o750)
        .file("data/file-to-dir/file", "now below")
        .file("data/dir-to-file", "now a file")
        .dir("data/hidden")
        .opaque("data/hidden")
        .file("data/hidden/new", "new")
        .dir("etc")
        .mtime(1_600_000_002, 999_999_999)
        .whiteout("etc/gone")
        .file("etc/motd", "hello again")
        .mtime(1_600_000_003, 7)
        .file("etc/again", "will come back");
    vec![bottom, middle]
}

/// What the demanding image has on top of them.
fn top() -> Tar {
    tar()
        .dir("etc")
        .mtime(1_600_000_004, 4)
        .whiteout("etc/again")
        .dir("srv")
        .mode(0o2775)
        .owner(33, 33)
        .file("srv/index", "<html>".repeat(5000))
}

/// The layers of the demanding image: two, one that is empty, twice, and the top.
pub fn layers() -> Vec<Tar> {
    base().into_iter().chain([tar(), tar(), top()]).collect()
}

/// Layers compressed differently. Not every peer reads Zstandard, in which the topmost may be.
fn with_layers(layers: Vec<Tar>, top: Compression) -> ImageSpec {
    let count = layers.len();
    layers.into_iter().enumerate().fold(image(), |image, (at, layer)| {
        let compression = match at {
            0 => Compression::Gzip,
            _ if at + 1 == count => top,
            _ => Compression::None,
        };
        image.compressed(layer.finish(), compression)
    })
}

/// The demanding image, with its topmost layer compressed like this.
pub fn demanding(compression: Compression) -> ImageSpec {
    let mut spec = with_layers(layers(), compression).name(DEMANDING).name(ALSO_DEMANDING);
    spec.config["author"] = json!("Somebody <somebody@example.org>");
    spec.config["created"] = json!("2024-01-01T00:00:05.123456789Z");
    spec.config["config"] = config();
    spec.config["history"] = json!([
        {"created": "2024-01-01T00:00:00Z", "created_by": "ADD bottom"},
        {"created": "2024-01-01T00:00:01Z", "created_by": "ENV A=b", "empty_layer": true},
        {"created": "2024-01-01T00:00:02Z", "created_by": "ADD middle", "author": "somebody else"},
        {"created": "2024-01-01T00:00:03Z", "created_by": "RUN true"},
        {"created": "2024-01-01T00:00:03Z", "created_by": "RUN true"},
        {"created": "2024-01-01T00:00:04Z", "created_by": "CMD [\"run\"]", "empty_layer": true},
        {"created": "2024-01-01T00:00:05.123456789Z", "created_by": "ADD top", "comment": "why"},
    ]);
    spec
}

/// Every field that a config can have.
pub fn config() -> Value {
    json!({
        "User": "1000:100",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Env": ["PATH=/usr/bin:/bin", "A=b", "QUOTED=with = and \" in it"],
        "Entrypoint": ["/bin/ping"],
        "Cmd": ["-c", "1"],
        "Volumes": {"/data": {}},
        "WorkingDir": "/home/user",
        "Labels": {"org.example.label": "with = and \" in it", "empty": ""},
        "StopSignal": "SIGUSR1",
        "ArgsEscaped": true,
        "Healthcheck": {
            "Test": ["CMD", "/bin/true"], "Interval": 30_000_000_000_u64, "Timeout": 5_000_000_000_u64, "Retries": 3
        },
        // `buildah from` executes it.
        "OnBuild": ["LABEL of.build=yes"],
        "Shell": ["/bin/sh", "-ec"],
    })
}

/// Who created the steps of its history, the last first, as engines list them.
pub const STEPS: [&str; 7] =
    ["ADD top", "CMD [\"run\"]", "RUN true", "RUN true", "ADD middle", "ENV A=b", "ADD bottom"];

/// Another image on the same lower layers.
pub fn sibling() -> ImageSpec {
    let layers = base().into_iter().chain([tar().dir("srv").file("srv/sibling", "sibling")]).collect();
    with_layers(layers, Compression::Gzip).name(SIBLING)
}

/// Both, and one that has no name.
pub fn several(compression: Compression) -> Layout {
    let mut layout = Layout::of(&demanding(compression));
    layout.add(&sibling());
    layout.add(&image().layer(tar().file("nameless", "nameless").finish()));
    layout
}

/// An image for this machine and one for another, behind an index under `name`; and the digest of that.
pub fn platforms(name: &str) -> (Layout, String) {
    let mut layout = Layout::default();
    let host = image();
    let other = if host.config["architecture"] == "amd64" { "arm64" } else { "amd64" };
    let mut manifests = Vec::new();
    for architecture in [other, host.config["architecture"].as_str().unwrap()] {
        let mut spec = image().layer(tar().dir("etc").file("etc/arch", architecture).finish());
        spec.config["architecture"] = json!(architecture);
        layout.add(&spec);
        let mut descriptor = layout.index["manifests"].as_array_mut().unwrap().pop().unwrap();
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        manifests.push(descriptor);
    }
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
    let mut descriptor = layout.document(media_type, &index);
    let digest = descriptor["digest"].as_str().unwrap().to_owned();
    let tag = name.rsplit_once(':').unwrap().1;
    descriptor["annotations"] =
        json!({"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": name});
    layout.index["manifests"] = json!([descriptor]);
    layout.images.clear();
    (layout, digest)
}

/// An image of a file with holes, as such in the tar: with a map of them in front of the data.
pub fn with_holes() -> ImageSpec {
    let layer = tar().dir("var").sparse(
        "var/sparse",
        1 << 20,
        &[(0, b"begin"), (512 << 10, b"middle")],
        SparseDialect::Pax10,
    );
    image().layer(layer.finish()).name(HOLES)
}

/// An image whose upper layer has a link to a file of the lower one.
pub fn linked_below() -> ImageSpec {
    let below = tar().dir("bin").file("bin/one", "one file").mode(0o755);
    let above = tar().dir("bin").link("bin/two", "bin/one").mode(0o755);
    image().layer(below.finish()).layer(above.finish()).name(LINKED)
}

/// What the demanding image shows, by the slow and obvious interpreter.
pub fn tree() -> Tree {
    let entries: Vec<_> = layers().iter().map(Tar::entries).collect();
    model::stack(entries.iter().map(Vec::as_slice)).without_root()
}

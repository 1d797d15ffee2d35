package engine

import (
	"crypto/rand"
	"encoding/hex"
	"math/big"
	"regexp"

	"gantry/internal/problem"
)

// validName is the reference's rule for container names.
var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

func checkName(name string) error {
	if !validName.MatchString(name) {
		return problem.New(problem.Invalid, "Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name)
	}
	return nil
}

// newID returns 64 random hexadecimal digits. The first twelve are never all
// decimal, so that a short ID is never taken for a number.
func newID() string {
	for {
		var raw [32]byte
		rand.Read(raw[:]) // never fails
		id := hex.EncodeToString(raw[:])
		for _, c := range id[:12] {
			if c >= 'a' {
				return id
			}
		}
	}
}

// randomName returns a name for a container that was given none.
func randomName() string { return pick(adjectives) + "_" + pick(nouns) }

func pick(words []string) string {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(len(words))))
	if err != nil {
		panic("the system's random source failed: " + err.Error())
	}
	return words[n.Int64()]
}

var adjectives = []string{
	"agile", "amber", "ample", "apt", "azure", "balmy", "bold", "brave", "breezy", "bright", "brisk", "bronze",
	"calm", "candid", "careful", "cheery", "chief", "civil", "clear", "clever", "cobalt", "copper", "coral", "cosy",
	"crimson", "crisp", "curious", "daring", "dapper", "deft", "eager", "early", "earnest", "easy", "emerald", "even",
	"fair", "fancy", "fast", "fearless", "fine", "firm", "fleet", "fond", "frank", "fresh", "gentle", "glad",
	"golden", "graceful", "grand", "handy", "happy", "hardy", "hearty", "honest", "humble", "ivory", "jade", "jolly",
	"keen", "kind", "large", "lasting", "leafy", "lively", "loyal", "lucid", "lucky", "merry", "mighty", "mild",
	"modest", "neat", "nimble", "noble", "olive", "open", "patient", "plucky", "polite", "prime", "proud", "quick",
	"quiet", "rapid", "ready", "robust", "rosy", "round", "ruby", "sandy", "serene", "sharp", "silent", "silver",
	"simple", "sincere", "sleek", "smart", "smooth", "snowy", "solid", "sound", "spry", "steady", "sturdy", "sunny",
	"sure", "swift", "tidy", "tender", "tough", "tranquil", "trusty", "upbeat", "velvet", "vivid", "warm", "wise",
	"witty", "zesty",
}

var nouns = []string{
	"anchor", "anvil", "arbor", "barge", "basin", "bay", "beacon", "beam", "bell", "berth", "bollard", "boom",
	"bow", "bridge", "brig", "buoy", "cable", "canal", "capstan", "cargo", "channel", "chart", "clipper", "coast",
	"compass", "cove", "crane", "crest", "cutter", "davit", "deck", "delta", "derrick", "dinghy", "dock", "dune",
	"estuary", "ferry", "fjord", "fleet", "galley", "gangway", "gull", "gulf", "halyard", "harbor", "hatch", "haven",
	"hawser", "heron", "hoist", "hold", "hull", "inlet", "island", "jetty", "jib", "kayak", "keel", "ketch",
	"knot", "lagoon", "lantern", "launch", "lever", "lift", "lighter", "lock", "lugger", "marina", "mast", "mole",
	"moor", "oar", "osprey", "packet", "pelican", "pier", "pilot", "port", "prow", "pulley", "quay", "raft",
	"reef", "rigging", "river", "rope", "rudder", "sail", "schooner", "scow", "seal", "shoal", "shore", "skiff",
	"sling", "sloop", "sound", "spar", "spit", "stern", "strait", "strand", "tackle", "tern", "tide", "tiller",
	"timber", "trawler", "truss", "tug", "vessel", "voyage", "wake", "watch", "wave", "wharf", "winch", "yacht",
	"yard", "yawl",
}

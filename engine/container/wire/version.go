package wire

// Versions are those of the protocol that a build speaks, from Oldest to Newest.
type Versions struct{ Oldest, Newest uint32 }

// current are this build's versions. A change of the protocol that the other
// side would misread raises Newest; Oldest is raised when no container can be
// left that was started so long ago.
var current = Versions{Oldest: 1, Newest: 1}

// oldest and newest stand for current's where the linker sets them to a digit:
// that makes the shims of other builds that tests want.
var oldest, newest string

// Spoken returns the versions that this build speaks.
func Spoken() Versions {
	v := current
	if len(oldest) == 1 {
		v.Oldest = uint32(oldest[0] - '0')
	}
	if len(newest) == 1 {
		v.Newest = uint32(newest[0] - '0')
	}
	return v
}

// Speaks tells whether version is one of v.
func (v Versions) Speaks(version uint32) bool { return v.Oldest <= version && version <= v.Newest }

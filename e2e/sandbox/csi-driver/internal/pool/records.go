package pool

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ErrNotFound says that there is no volume or snapshot of that id.
var ErrNotFound = errors.New("not found")

// Volume is what is recorded of a volume. How it is used (Block or Filesystem) is not: that is asked anew each time.
type Volume struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	SizeBytes int64     `json:"sizeBytes"`
	CreatedAt time.Time `json:"createdAt"`
	// FromSnapshot or FromVolume is the id of what it was made from, if anything.
	FromSnapshot string `json:"fromSnapshot,omitempty"`
	FromVolume   string `json:"fromVolume,omitempty"`
}

// Snapshot is what is recorded of a snapshot.
type Snapshot struct {
	ID             string    `json:"id"`
	Name           string    `json:"name"`
	SourceVolumeID string    `json:"sourceVolumeId"`
	SizeBytes      int64     `json:"sizeBytes"`
	CreatedAt      time.Time `json:"createdAt"`
	// Parameters of the call, by which fault switches find the snapshot again.
	Parameters map[string]string `json:"parameters,omitempty"`
}

// Position in a listing: creation time, which no two volumes (or snapshots) share.
func (v Volume) Position() int64 { return v.CreatedAt.UnixNano() }

// Position in a listing: creation time, which no two volumes (or snapshots) share.
func (s Snapshot) Position() int64 { return s.CreatedAt.UnixNano() }

// NewID returns a random id; ids are never used again.
func NewID(prefix string) string {
	var random [12]byte
	if _, err := rand.Read(random[:]); err != nil {
		panic(err) // crypto/rand never fails on Linux
	}
	return prefix + hex.EncodeToString(random[:])
}

// now returns the time, later than every time it or the loaded records had before.
func (p *Pool) now() time.Time {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	now := time.Now().UTC()
	if !now.After(p.lastTime) {
		now = p.lastTime.Add(1)
	}
	p.lastTime = now
	return now
}

// Volume returns a volume by id.
func (p *Pool) Volume(id string) (Volume, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	volume, ok := p.volumes[id]
	if !ok {
		return Volume{}, fmt.Errorf("volume %q: %w", id, ErrNotFound)
	}
	return volume, nil
}

// Snapshot returns a snapshot by id.
func (p *Pool) Snapshot(id string) (Snapshot, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	snapshot, ok := p.snapshots[id]
	if !ok {
		return Snapshot{}, fmt.Errorf("snapshot %q: %w", id, ErrNotFound)
	}
	return snapshot, nil
}

// VolumeByName returns the volume that was created under a name, nil if there is none.
func (p *Pool) VolumeByName(name string) *Volume {
	for _, volume := range p.Volumes() {
		if volume.Name == name {
			return &volume
		}
	}
	return nil
}

// SnapshotByName returns the snapshot that was created under a name, nil if there is none.
func (p *Pool) SnapshotByName(name string) *Snapshot {
	for _, snapshot := range p.Snapshots() {
		if snapshot.Name == name {
			return &snapshot
		}
	}
	return nil
}

// Volumes returns all volumes, oldest first.
func (p *Pool) Volumes() []Volume {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return sorted(p.volumes, Volume.Position)
}

// Snapshots returns all snapshots, oldest first.
func (p *Pool) Snapshots() []Snapshot {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return sorted(p.snapshots, Snapshot.Position)
}

func sorted[T any](records map[string]T, position func(T) int64) []T {
	list := make([]T, 0, len(records))
	for _, record := range records {
		list = append(list, record)
	}
	slices.SortFunc(list, func(a, b T) int { return cmp.Compare(position(a), position(b)) })
	return list
}

func (p *Pool) load() error {
	var err error
	if p.volumes, err = loadDir[Volume](p, volumesDir); err != nil {
		return err
	}
	if p.snapshots, err = loadDir[Snapshot](p, snapshotsDir); err != nil {
		return err
	}
	for _, volume := range p.volumes {
		p.lastTime = later(p.lastTime, volume.CreatedAt)
	}
	for _, snapshot := range p.snapshots {
		p.lastTime = later(p.lastTime, snapshot.CreatedAt)
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func loadDir[T any](p *Pool, dir string) (map[string]T, error) {
	records := map[string]T{}
	entries, err := os.ReadDir(filepath.Join(p.root, dir))
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		id, isRecord := strings.CutSuffix(entry.Name(), ".json")
		if !isRecord {
			continue
		}
		path := filepath.Join(p.root, dir, entry.Name())
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var record T
		if err := json.Unmarshal(text, &record); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if _, err := os.Stat(p.imagePath(dir, id)); err != nil {
			return nil, fmt.Errorf("%s has lost its image: %w", path, err)
		}
		records[id] = record
	}
	return records, nil
}

func (p *Pool) imagePath(dir, id string) string {
	return filepath.Join(p.root, dir, id+".img")
}

// writeRecord puts a record in place so that a crash leaves the old one or the new one.
func (p *Pool) writeRecord(dir, id string, record any) error {
	text, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return err
	}
	fresh := filepath.Join(p.root, tmpDir, id+".json")
	file, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(append(text, '\n'))
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	if err := os.Rename(fresh, filepath.Join(p.root, dir, id+".json")); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	return p.syncDir(dir)
}

func (p *Pool) syncDir(dir string) error {
	handle, err := os.Open(filepath.Join(p.root, dir))
	if err != nil {
		return err
	}
	return errors.Join(handle.Sync(), handle.Close())
}

// remove takes the record away first: from then on the image is a leftover, whatever happens.
func (p *Pool) remove(dir, id string) error {
	if err := os.Remove(filepath.Join(p.root, dir, id+".json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := p.syncDir(dir); err != nil {
		return err
	}
	if err := os.Remove(p.imagePath(dir, id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

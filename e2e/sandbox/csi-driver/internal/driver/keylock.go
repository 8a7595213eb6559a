package driver

import (
	"context"
	"sync"
)

// keyLock lets calls for the same key run one after the other. The zero value is ready.
type keyLock struct {
	mutex sync.Mutex
	held  map[string]*lockEntry
}

type lockEntry struct {
	token chan struct{}
	users int
}

// lock waits until the key is free or the caller gives up; the returned function frees it.
func (l *keyLock) lock(ctx context.Context, key string) (func(), error) {
	l.mutex.Lock()
	if l.held == nil {
		l.held = map[string]*lockEntry{}
	}
	entry := l.held[key]
	if entry == nil {
		entry = &lockEntry{token: make(chan struct{}, 1)}
		l.held[key] = entry
	}
	entry.users++
	l.mutex.Unlock()

	select {
	case entry.token <- struct{}{}:
		return func() { <-entry.token; l.leave(key, entry) }, nil
	case <-ctx.Done():
		l.leave(key, entry)
		return nil, ctx.Err()
	}
}

func (l *keyLock) leave(key string, entry *lockEntry) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	entry.users--
	if entry.users == 0 {
		delete(l.held, key)
	}
}

// A call takes a name's lock before an id's and never two ids', so that no two calls wait for each other.
func volumeNameKey(name string) string   { return "volume name " + name }
func snapshotNameKey(name string) string { return "snapshot name " + name }
func volumeKey(id string) string         { return "volume " + id }
func snapshotKey(id string) string       { return "snapshot " + id }

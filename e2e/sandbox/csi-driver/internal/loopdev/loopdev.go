// Package loopdev attaches files to loop devices and finds and detaches them again. It knows files and devices, not volumes.
//
// All state is the kernel's: a device is found by the inode behind it, so nothing is lost when the process dies.
package loopdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	flagReadOnly  = 0x1
	flagAutoclear = 0x4
	flagDirectIO  = 0x10

	loopMajor = 7
	// attachAttempts bounds the race for free devices with everything else on the machine.
	attachAttempts = 128
	detachTimeout  = 5 * time.Second
	pollInterval   = 20 * time.Millisecond
)

// ErrBusy says that a device stays attached because something else holds it open.
var ErrBusy = errors.New("loop device is still held open")

// Device is an attached loop device.
type Device struct {
	// Path is the device node, /dev/loopN.
	Path string
	// Dev is the device's own number.
	Dev uint64
	// BackingFile is the backing file's path as the kernel prints it, with " (deleted)" where it was unlinked.
	BackingFile string
	// BackingDev and BackingInode identify the backing file.
	BackingDev, BackingInode uint64
	// BackingRdev is set when the backing file is itself a block device.
	BackingRdev uint64
	// ReadOnly, Autoclear and DirectIO are the device's flags.
	ReadOnly, Autoclear, DirectIO bool
}

// MajorMinor is the device number as mountinfo prints it.
func (d Device) MajorMinor() string {
	return fmt.Sprintf("%d:%d", unix.Major(d.Dev), unix.Minor(d.Dev))
}

// Options of Attach.
type Options struct {
	// ReadOnly refuses writes to the device.
	ReadOnly bool
	// Autoclear detaches the device when its last user closes it.
	Autoclear bool
	// RequireDirectIO fails where the backing file system cannot do direct I/O.
	RequireDirectIO bool
	// SectorBytes is the device's logical block size; 0 lets the kernel choose.
	SectorBytes uint32
}

// Attach binds a file to a free loop device with direct I/O. The returned handle keeps an autoclear device attached
// until the caller has mounted it and closes the handle.
func Attach(path string, opts Options) (Device, *os.File, error) {
	mode := os.O_RDWR
	if opts.ReadOnly {
		mode = os.O_RDONLY
	}
	backing, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return Device{}, nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return Device{}, nil, err
	}
	defer control.Close()
	for range attachAttempts {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return Device{}, nil, fmt.Errorf("no free loop device: %w", err)
		}
		handle, err := configure(number, backing, opts)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENXIO) {
			continue // somebody else was faster
		}
		if err != nil {
			return Device{}, nil, fmt.Errorf("attach %s to loop%d: %w", path, number, err)
		}
		device, err := status(handle, path)
		if err == nil && opts.RequireDirectIO && !device.DirectIO {
			err = fmt.Errorf("%s: no direct I/O on its file system", path)
		}
		if err != nil {
			err = errors.Join(err, unix.IoctlSetInt(int(handle.Fd()), unix.LOOP_CLR_FD, 0), handle.Close())
			return Device{}, nil, err
		}
		return device, handle, nil
	}
	return Device{}, nil, fmt.Errorf("attach %s: every free loop device was taken by others", path)
}

func configure(number int, backing *os.File, opts Options) (*os.File, error) {
	handle, err := openNode(number)
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: opts.SectorBytes}
	config.Info.Flags = flagDirectIO
	if opts.ReadOnly {
		config.Info.Flags |= flagReadOnly
	}
	if opts.Autoclear {
		config.Info.Flags |= flagAutoclear
	}
	// The kernel shows at most 63 bytes of it; the whole path is in sysfs.
	copy(config.Info.File_name[:63], filepath.Base(backing.Name()))
	if err := unix.IoctlLoopConfigure(int(handle.Fd()), &config); err != nil {
		return nil, errors.Join(err, handle.Close())
	}
	return handle, nil
}

// openNode opens /dev/loopN and makes the node where /dev is not kept by the kernel (containers).
func openNode(number int) (*os.File, error) {
	path := fmt.Sprintf("/dev/loop%d", number)
	handle, err := os.OpenFile(path, os.O_RDWR, 0)
	if !errors.Is(err, os.ErrNotExist) {
		return handle, err
	}
	err = unix.Mknod(path, unix.S_IFBLK|0o660, int(unix.Mkdev(loopMajor, uint32(number))))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}

func status(handle *os.File, backingFile string) (Device, error) {
	info, err := unix.IoctlLoopGetStatus64(int(handle.Fd()))
	if err != nil {
		return Device{}, fmt.Errorf("status of %s: %w", handle.Name(), err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(handle.Fd()), &st); err != nil {
		return Device{}, err
	}
	return Device{
		Path:         handle.Name(),
		Dev:          st.Rdev,
		BackingFile:  backingFile,
		BackingDev:   info.Device,
		BackingInode: info.Inode,
		BackingRdev:  info.Rdevice,
		ReadOnly:     info.Flags&flagReadOnly != 0,
		Autoclear:    info.Flags&flagAutoclear != 0,
		DirectIO:     info.Flags&flagDirectIO != 0,
	}, nil
}

// List returns the attached devices whose backing file's path passes the filter; others are not even opened.
func List(filter func(backingFile string) bool) ([]Device, error) {
	paths, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var devices []Device
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // detached meanwhile
		}
		backingFile := strings.TrimSuffix(string(text), "\n")
		if !filter(backingFile) {
			continue
		}
		name := strings.Split(path, "/")[3]
		handle, err := os.OpenFile("/dev/"+name, os.O_RDONLY, 0)
		if err != nil {
			continue
		}
		device, err := status(handle, backingFile)
		if closeErr := handle.Close(); err == nil && closeErr == nil {
			devices = append(devices, device)
		} else if err != nil && !errors.Is(err, unix.ENXIO) {
			return nil, err
		}
	}
	return devices, nil
}

// Find returns the device a file is attached to, or nil. A file is its inode: a new file of the same name does not count.
func Find(path string) (*Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	devices, err := List(func(backingFile string) bool { return backingFile == path })
	if err != nil {
		return nil, err
	}
	for _, device := range devices {
		if device.BackingDev == st.Dev && device.BackingInode == st.Ino {
			return &device, nil
		}
	}
	return nil, nil
}

// Hold opens an attached device so that it cannot go away, and sets whether it goes with its last user.
func Hold(device Device, autoclear bool) (*os.File, error) {
	handle, err := os.OpenFile(device.Path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	info, err := unix.IoctlLoopGetStatus64(int(handle.Fd()))
	if err == nil && (info.Device != device.BackingDev || info.Inode != device.BackingInode) {
		err = unix.ENXIO // detached, and taken by another file
	}
	if err == nil && (info.Flags&flagAutoclear != 0) != autoclear {
		info.Flags ^= flagAutoclear
		err = unix.IoctlLoopSetStatus64(int(handle.Fd()), info)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("hold %s: %w", device.Path, err), handle.Close())
	}
	return handle, nil
}

// Flush writes the device's page cache back and flushes it down to the backing file's storage.
func Flush(device Device) error {
	handle, err := os.OpenFile(device.Path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	if err := handle.Sync(); err != nil {
		return errors.Join(fmt.Errorf("flush %s: %w", device.Path, err), handle.Close())
	}
	return handle.Close()
}

// SetCapacity makes the device as large as its backing file has become.
func SetCapacity(device Device) error {
	handle, err := os.OpenFile(device.Path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	if err := unix.IoctlSetInt(int(handle.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return errors.Join(fmt.Errorf("set capacity of %s: %w", device.Path, err), handle.Close())
	}
	return handle.Close()
}

// Detach unbinds the device and waits until it is gone. Where others hold it open it goes with the last of them; if that
// takes too long, ErrBusy is returned.
func Detach(ctx context.Context, device Device) error {
	handle, err := Hold(device, device.Autoclear)
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return err
	}
	err = unix.IoctlSetInt(int(handle.Fd()), unix.LOOP_CLR_FD, 0)
	if closeErr := handle.Close(); err == nil {
		err = closeErr
	}
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("detach %s: %w", device.Path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	for attached(device) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s (%s): %w", device.Path, device.BackingFile, ErrBusy)
		case <-time.After(pollInterval):
		}
	}
	return nil
}

// attached reads sysfs only: opening the device to look would itself delay its end.
func attached(device Device) bool {
	name := filepath.Base(device.Path)
	text, err := os.ReadFile(filepath.Join("/sys/block", name, "loop/backing_file"))
	return err == nil && strings.TrimSuffix(string(text), "\n") == device.BackingFile
}

// Size is the device's size in bytes.
func Size(device Device) (int64, error) {
	text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device.Path), "size"))
	if err != nil {
		return 0, err
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return sectors * 512, err
}

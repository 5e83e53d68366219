// control - a robot's control loop: control policy.onnx [SEED [DEADLINE_S]] < observations > actions
//
// A line of observations is what one step saw: the numbers of all inputs of the policy, in the file's order, with blanks
// between. A line of actions is what to do. A late plan, NaN or an observation far from what training saw ends it with one
// line and the exit codes of ddpm_sample: a robot then stops.
#include <cstdio>
#include <functional>
#include <iostream>
#include <limits>
#include <sstream>
#include <string>

#include "no_telemetry.hpp"
#include "onnx_model.hpp"
#include "printable.hpp"

namespace {

// Return what a line says of each input; too few numbers leave an input short, which the policy refuses.
ddpm::Observation observed(const std::string& line, const std::vector<ddpm::Input>& inputs) {
    std::istringstream words(line);
    ddpm::Observation observation;
    for (const ddpm::Input& input : inputs) {
        std::vector<float>& numbers = observation[input.name];
        const std::size_t size = input.size() / static_cast<std::size_t>(input.shape[0]);  // of one step
        for (std::string word; numbers.size() < size && words >> word;) {
            numbers.push_back(std::stof(word));
        }
    }
    if (std::string word; words >> word) {
        throw std::invalid_argument(word);
    }
    return observation;
}

}  // namespace

int main(int argc, char** argv) {
    turn_off_telemetry();
    std::cerr.setstate(std::ios::failbit);  // where Debian's ONNX Runtime writes 1,134 lines; this program does not
    const auto failed = [](ddpm::Code code, const std::string& line) {
        std::fprintf(stderr, "error: %s\n", printable(line).c_str());
        return static_cast<int>(code);
    };
    if (argc < 2 || argc > 4) {
        return failed(ddpm::Code::usage, "usage: control policy.onnx [SEED [DEADLINE_S]] < observations > actions");
    }
    try {
        OnnxModel network(argv[1]);
        const double any_time = std::numeric_limits<double>::infinity();
        ddpm::Policy policy(std::ref(network), std::ref(network), network.spec(), argc > 3 ? std::stod(argv[3]) : any_time);
        policy.reset(argc > 2 ? std::stoll(argv[2]) : 0);
        for (std::string line; std::getline(std::cin, line);) {
            for (const float number : policy.act(observed(line, network.spec().asked_inputs()))) {
                std::printf("%.9g ", static_cast<double>(number));
            }
            std::printf("\n");
            std::fflush(stdout);
        }
    } catch (const ddpm::Error& problem) {
        return failed(problem.code, problem.what());
    } catch (const std::logic_error&) {  // of std::stof and its like
        return failed(ddpm::Code::usage, "What is no number stands where one must, or there are too many.");
    } catch (const std::exception& problem) {
        return failed(ddpm::Code::environment, problem.what());
    }
}
